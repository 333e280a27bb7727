"""The hot paths against bare redis-py, side by side in one process: `make bench-cache ARGS=--json`.

    hit          EntityCache.get of a 200-byte value / Redis.get, blocking         bar <= 1.3
    hit async    the same for asyncio
    apply        apply_many of 500 changes / a pipeline of 500 SET                  bar <= 4
    replay       the same changes once more: all are equal
    near         hits of the near cache per second, one thread                      bar >= 500,000
    cashews, aiocache, dogpile   a hit of theirs / the bare GET of the same kind (asyncio, asyncio, blocking)

Each run times every subject once, in turn, so that a slow moment of the machine hits all of them; the ratio is taken
within a run, and the median over the runs is reported with its spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from dogpile.cache import make_region

from cache.redis_server import RedisServer
from headwater_cache import Change, EntityCache, MsgpackValues, NearPolicy, Position, TopicPartition, log_version
from headwater_cache.testing import MemoryLog

GETS, BATCH, BATCHES = 200, 500, 2
VALUE = {"flight_id": "2013-01-01-UA-1545-EWR", "carrier": "UA", "status": "DEPARTED", "note": "x" * 120}
PAYLOAD = MsgpackValues[Any]().encode(VALUE)[1]


class Paths:
    """The subjects. Each returns the seconds that one operation took."""

    def __init__(self, url: str) -> None:
        self.bare = redis.Redis.from_url(url)
        self.bare.set("bare", PAYLOAD)
        self.url = url
        self.cache = EntityCache[dict[str, str]]("bench", url, log=MemoryLog())
        self.cache.put("hit", VALUE)
        self.near = EntityCache[dict[str, str]]("bench", url, near=NearPolicy(ttl="10m"))
        while self.near._near is None or self.near._near.get("hit") is None:  # until the channel is up
            self.near.get("hit")
        self.region = make_region().configure("dogpile.cache.redis", arguments={"url": url})
        self.region.set("dogpile", VALUE)
        assert self.region.get("dogpile") == VALUE
        self.offset = 0
        self.cache.check_continuity({TopicPartition("bench.changes", 0): 0})
        self.changes: list[list[Change]] = []

    def get_bare(self) -> float:
        return _each(lambda: self.bare.get("bare"), GETS)

    def get(self) -> float:
        return _each(lambda: self.cache.get("hit"), GETS)

    def get_bare_async(self) -> float:
        async def run() -> float:
            async with redis.asyncio.Redis.from_url(self.url) as client:
                await client.get("bare")
                began = time.perf_counter()
                for _ in range(GETS):
                    await client.get("bare")
                return (time.perf_counter() - began) / GETS

        return asyncio.run(run())

    def get_async(self) -> float:
        async def run() -> float:
            async with self.cache:
                await self.cache.aget("hit")
                began = time.perf_counter()
                for _ in range(GETS):
                    await self.cache.aget("hit")
                return (time.perf_counter() - began) / GETS

        return asyncio.run(run())

    def get_cashews(self) -> float:
        async def run() -> float:
            from cashews import Cache

            cache = Cache()
            cache.setup(self.url)
            await cache.set("cashews", VALUE, expire="10m")
            return await self._each_async(lambda: cache.get("cashews"), cache.close)

        return asyncio.run(run())

    def get_aiocache(self) -> float:
        async def run() -> float:
            from aiocache import Cache
            from aiocache.serializers import PickleSerializer

            place = urlsplit(self.url)
            options = {"endpoint": place.hostname, "port": place.port, "serializer": PickleSerializer()}
            cache = Cache(Cache.REDIS, **options)
            await cache.set("aiocache", VALUE, ttl=600)
            return await self._each_async(lambda: cache.get("aiocache"), cache.close)

        return asyncio.run(run())

    def get_dogpile(self) -> float:
        return _each(lambda: self.region.get("dogpile"), GETS)

    @staticmethod
    async def _each_async(operation: Callable[[], Awaitable[Any]], close: Callable[[], Awaitable[Any]]) -> float:
        assert await operation() == VALUE
        began = time.perf_counter()
        for _ in range(GETS):
            await operation()
        took = (time.perf_counter() - began) / GETS
        await close()
        return took

    def get_near(self) -> float:
        return _each(lambda: self.near.get("hit"), 50 * GETS)

    def set_pipelined(self) -> float:
        def run() -> None:
            with self.bare.pipeline(transaction=False) as pipe:
                for number in range(BATCH):
                    pipe.set(f"bare:{number}", PAYLOAD)
                pipe.execute()

        return _each(run, BATCHES) / BATCH

    def apply(self) -> float:
        self.changes = [self._batch() for _ in range(BATCHES)]
        return self.replay()

    def replay(self) -> float:
        batches = iter(self.changes)
        return _each(lambda: self.cache.apply_many(next(batches)), BATCHES) / BATCH

    def _batch(self) -> list[Change]:
        start, self.offset = self.offset, self.offset + BATCH
        return [
            Change(f"k{at % BATCH}", log_version(1, at), PAYLOAD, 0, Position("bench.changes", 0, at))
            for at in range(start, start + BATCH)
        ]


RATIOS = {
    "hit": ("get", "get_bare", 1.3),
    "hit_async": ("get_async", "get_bare_async", None),
    "cashews": ("get_cashews", "get_bare_async", None),
    "aiocache": ("get_aiocache", "get_bare_async", None),
    "dogpile": ("get_dogpile", "get_bare", None),
    "apply": ("apply", "set_pipelined", 4.0),
    "replay": ("replay", "set_pipelined", None),
}


def _each(operation: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        operation()
    return (time.perf_counter() - began) / count


def main() -> None:
    """Run and print; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=61, help="slices in which the subjects take turns")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        server = RedisServer(Path(folder))
        try:
            result = _measure(Paths(server.url), arguments.runs)
        finally:
            server.kill()
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, of in result["ratios"].items():
            print(f"{name:>10}  {of['ratio']:.2f}  ({of['low']:.2f} to {of['high']:.2f})  bar {of['bar']}")
        print(f"{'near':>10}  {result['near_hits_per_second']:,} hits/s  bar 500,000")
    slow = result["near_hits_per_second"] < 500_000
    sys.exit(1 if slow or any(of["bar"] and of["ratio"] > of["bar"] for of in result["ratios"].values()) else 0)


def _measure(paths: Paths, runs: int) -> dict[str, Any]:
    near = [paths.get_near() for _ in range(runs)]
    paths.near.close()
    subjects = [subject for ours, bare, _ in RATIOS.values() for subject in (bare, ours)]
    times: dict[str, list[float]] = {subject: [] for subject in subjects}
    for run in range(runs + 1):  # the first warms up
        measured = {subject: getattr(paths, subject)() for subject in dict.fromkeys(subjects)}
        if run:
            for subject, seconds in measured.items():
                times[subject].append(seconds)
    ratios = {}
    for name, (ours, bare, bar) in RATIOS.items():
        within = [mine / theirs for mine, theirs in zip(times[ours], times[bare], strict=True)]
        ratios[name] = {
            "ratio": round(statistics.median(within), 3),
            "low": round(min(within), 3),
            "high": round(max(within), 3),
            "bar": bar,
            "microseconds": round(statistics.median(times[ours]) * 1e6, 2),
            "bare_microseconds": round(statistics.median(times[bare]) * 1e6, 2),
        }
    return {
        "bench": "cache",
        "runs": runs,
        "near_hits_per_second": round(1 / statistics.median(near)),
        "near_hits_per_second_best": round(1 / min(near)),
        "ratios": ratios,
    }


if __name__ == "__main__":
    main()
