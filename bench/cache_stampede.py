"""One cold key, 8 processes of 25 coroutines at once: `make bench-stampede ARGS=--json`.

Bar: the source is asked once, and a waiter costs at most two Redis commands (all that was sent, over all waiters).
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
from headwater_cache import CachePolicy, EntityCache, Loaded
from headwater_cache.steps import AsyncPort, Command

PROCESSES, COROUTINES = 8, 25


class SlowSource:
    """Counts its loads; each takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loads = 0

    async def load(self, key: str) -> Loaded[str]:
        self.loads += 1
        await asyncio.sleep(self.seconds)
        return Loaded("value of " + key, 1)

    async def write(self, key: str, value: str | None) -> int:
        raise NotImplementedError


class CountingPort:
    """Counts what is sent. (Redis can not tell: its statistics also count what scripts call inside the server.)"""

    def __init__(self, port: AsyncPort) -> None:
        self._port = port
        self.commands = 0

    async def ask(self, command: Command) -> Any:
        self.commands += 1
        return await self._port.ask(command)

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        self.commands += len(commands)
        return await self._port.batch(commands)


def process(url: str, seconds: float, rounds: int, barrier: Barrier, results: Queue[dict[str, Any]]) -> None:
    """One process: connected and warm before the first round, all of them let go together in each."""
    asyncio.run(_rounds(url, seconds, rounds, barrier, results))


async def _rounds(url: str, seconds: float, rounds: int, barrier: Barrier, results: Queue[dict[str, Any]]) -> None:
    source = SlowSource(seconds)
    policy = CachePolicy(wait="10s")
    async with EntityCache[str]("stampede", url, mode="cache", source=source, policy=policy) as cache:
        driver = cache._connection.async_driver
        driver._port = counted = CountingPort(driver._port)
        await asyncio.gather(*(cache.aget(f"warm-up {number % 3}") for number in range(COROUTINES)))
        for number in range(rounds):
            source.loads = counted.commands = 0
            await asyncio.to_thread(barrier.wait)
            took = await asyncio.gather(*(_timed(cache, f"cold {number}") for _ in range(COROUTINES)))
            results.put({"round": number, "loads": source.loads, "commands": counted.commands, "took": took})


async def _timed(cache: EntityCache[str], key: str) -> float:
    began = time.perf_counter()
    value = await cache.aget(key)
    assert value == "value of " + key
    return time.perf_counter() - began


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-seconds", type=float, default=0.2, help="how long the source takes")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-stampede-") as folder:
        server = RedisServer(Path(folder))
        try:
            result = _run(server, arguments.load_seconds, arguments.rounds)
        finally:
            server.kill()
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>20}  {value}")
    sys.exit(0 if result["loads"] == 1 and result["commands_per_waiter"] <= 2 else 1)


def _run(server: RedisServer, seconds: float, rounds: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES + 1), context.Queue()
    processes = [
        context.Process(target=process, args=(server.url, seconds, rounds, barrier, results)) for _ in range(PROCESSES)
    ]
    for each in processes:
        each.start()
    found = []
    for _ in range(rounds):
        barrier.wait(60)
        found += [results.get(timeout=60) for _ in range(PROCESSES)]
    for each in processes:
        each.join(30)
    loads = [sum(part["loads"] for part in found if part["round"] == at) for at in range(rounds)]
    commands = [sum(part["commands"] for part in found if part["round"] == at) for at in range(rounds)]
    took = sorted(seconds for part in found for seconds in part["took"])
    return {
        "bench": "stampede",
        "processes": PROCESSES,
        "coroutines": COROUTINES,
        "rounds": rounds,
        "loads": max(loads),
        "commands_per_waiter": round(max(commands) / (PROCESSES * COROUTINES), 3),
        "commands_per_waiter_median": round(statistics.median(commands) / (PROCESSES * COROUTINES), 3),
        "load_seconds": seconds,
        "waiter_seconds_p50": round(took[len(took) // 2], 4),
        "waiter_seconds_max": round(took[-1], 4),
    }


if __name__ == "__main__":
    main()
