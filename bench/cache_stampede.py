"""One cold key, 8 processes of 25 coroutines at once: `make bench-stampede ARGS=--json`.

Bar: the source is asked once, and a waiter costs at most two Redis commands (all that was sent, over all waiters).
Beside it the same stampede on other caches and on bare redis-py; ``--only headwater`` leaves them out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from cache.redis_server import RedisServer
from cache_peers import CONTENDERS, Commands, Contender, SlowSource

PROCESSES, COROUTINES = 8, 25


def process(name: str, url: str, seconds: float, rounds: int, barrier: Barrier, results: Queue[dict[str, Any]]) -> None:
    """One process: connected and warm before the first round, all of them let go together in each."""
    asyncio.run(_rounds(name, url, seconds, rounds, barrier, results))


async def _rounds(
    name: str, url: str, seconds: float, rounds: int, barrier: Barrier, results: Queue[dict[str, Any]]
) -> None:
    commands, source = Commands(), SlowSource(seconds)
    contender = CONTENDERS[name](url, source)
    await asyncio.gather(*(contender.read(f"warm-up {number % 3}") for number in range(COROUTINES)))
    for number in range(rounds):
        source.loads = commands.count = 0
        await asyncio.to_thread(barrier.wait)
        took = await asyncio.gather(*(_timed(contender, f"cold {number}") for _ in range(COROUTINES)))
        results.put({"round": number, "loads": source.loads, "commands": commands.count, "took": took})
    await contender.close()


async def _timed(contender: Contender, key: str) -> float:
    began = time.perf_counter()
    value = await contender.read(key)
    assert value == "value of " + key
    return time.perf_counter() - began


def main() -> None:
    """Run the rounds and print the figures; exit code 1 if ours miss the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-seconds", type=float, default=0.2, help="how long the source takes")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="leave the others out; repeatable")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.only or CONTENDERS:
        print(f"{name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="headwater-stampede-") as folder:
            server = RedisServer(Path(folder))
            try:
                found[name] = _run(name, server, arguments.load_seconds, arguments.rounds)
            finally:
                server.kill()
    ours = found.get("headwater", {})
    if arguments.json:
        peers = {name: of for name, of in found.items() if name != "headwater"}
        head = {"bench": "stampede", "processes": PROCESSES, "coroutines": COROUTINES, "rounds": arguments.rounds}
        print(json.dumps({**head, "load_seconds": arguments.load_seconds, **ours, "peers": peers}))
    else:
        print(f"{'':>15}  {'loads':>6}  {'commands per waiter':>19}  {'longest wait':>12}")
        for name, of in found.items():
            print(
                f"{name:>15}  {of['loads']:>6}  {of['commands_per_waiter']:>19.2f}  {of['waiter_seconds_max']:>10.2f} s"
            )
    sys.exit(1 if ours and (ours["loads"] != 1 or ours["commands_per_waiter"] > 2) else 0)


def _run(name: str, server: RedisServer, seconds: float, rounds: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES + 1), context.Queue()
    arguments = (name, server.url, seconds, rounds, barrier, results)
    processes = [context.Process(target=process, args=arguments) for _ in range(PROCESSES)]
    for each in processes:
        each.start()
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        barrier.wait(60)
        found += [results.get(timeout=60) for _ in range(PROCESSES)]
    for each in processes:
        each.join(30)
    loads = [sum(part["loads"] for part in found if part["round"] == at) for at in range(rounds)]
    commands = [sum(part["commands"] for part in found if part["round"] == at) for at in range(rounds)]
    return {"loads": max(loads), **_waits(commands, found)}


def _waits(commands: Sequence[int], found: Sequence[dict[str, Any]]) -> dict[str, float]:
    took = sorted(seconds for part in found for seconds in part["took"])
    waiters = PROCESSES * COROUTINES
    return {
        "commands_per_waiter": round(max(commands) / waiters, 3),
        "commands_per_waiter_median": round(statistics.median(commands) / waiters, 3),
        "waiter_seconds_p50": round(took[len(took) // 2], 4),
        "waiter_seconds_max": round(took[-1], 4),
    }


if __name__ == "__main__":
    main()
