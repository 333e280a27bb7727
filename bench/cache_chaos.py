"""Random schedules of the cache with accidents: `make chaos-cache ARGS="--schedules 10000 --json"`.

A million of them, as before a release, or as many as an hour takes: ``--schedules 1000000 --seconds 3600``.

Each seed is one interleaving of readers, writers and consumers, with kills, evictions, failovers and an emptied Redis
(tests/cache/schedules.py says how). ``stuck`` counts the schedules that broke an invariant; each is printed with its
seed, which plays it again: ``--seed N --schedules 1``.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache.exhaustive import Broken, Explorer
from cache.redis_server import RedisServer
from cache.resp import RespPort
from cache.schedules import Report, play

_SLICE = 256


def main() -> None:
    """Play the schedules; exit code 1 if one got stuck."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long (default: never)")
    parser.add_argument("--seed", type=int, help="the first seed (default: random, printed)")
    parser.add_argument("--exhaustive", action="store_true", help="every interleaving of a small world instead")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    if arguments.exhaustive:
        _exhaust(arguments.json)
        return
    seed: int = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed

    with tempfile.TemporaryDirectory(prefix="headwater-chaos-") as folder:
        server = RedisServer(Path(folder))
        try:
            began = time.perf_counter()
            report = _play(RespPort(server.port), seed, arguments.schedules, began + arguments.seconds)
            elapsed = time.perf_counter() - began
        finally:
            server.kill()

    for line in report.seeds:
        print(line, file=sys.stderr)
    result = {
        "bench": "chaos-cache",
        "schedules": report.schedules,
        "stuck": report.stuck,
        "seed": seed,
        "seconds": round(elapsed, 1),
        "outcomes": dict(sorted(report.outcomes.items())),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{report.schedules} schedules from seed {seed} in {elapsed:.0f} s: {report.stuck} stuck")
    sys.exit(1 if report.stuck else 0)


def _exhaust(as_json: bool) -> None:
    """Two writers, two readers and an eviction, on the model of the scripts; exit code 1 if an invariant broke."""
    explorer = Explorer(("put 1", "put 2", "read", "read"), ("evict",))
    secrets.token_hex = explorer.token
    began, broken = time.perf_counter(), ""
    try:
        explorer.run()
    except Broken as exc:
        broken = str(exc)
        print(broken, file=sys.stderr)
    seconds = round(time.perf_counter() - began, 1)
    if as_json:
        result = {"bench": "chaos-cache", "states": explorer.states, "stuck": int(bool(broken)), "seconds": seconds}
        print(json.dumps(result))
    else:
        print(f"{explorer.states} states in {seconds} s: {'broken' if broken else 'all invariants hold'}")
    sys.exit(1 if broken else 0)


def _play(port: RespPort, seed: int, schedules: int, deadline: float) -> Report:
    whole = Report()
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[stuck]} stuck"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=schedules, stuck=0)
        for start in range(0, schedules, _SLICE):
            part = play(port, range(seed + start, seed + min(start + _SLICE, schedules)))
            whole.schedules += part.schedules
            whole.stuck += part.stuck
            whole.seeds += part.seeds
            whole.outcomes.update(part.outcomes)
            progress.update(bar, completed=whole.schedules, stuck=whole.stuck)
            if time.perf_counter() > deadline:
                break
    return whole


if __name__ == "__main__":
    main()
