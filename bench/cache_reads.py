"""What a cache is for: reads through it against PostgreSQL alone, under the same load: `make bench-cache-reads`.

    python bench/cache_reads.py [--rounds 3] [--seconds 5] [--keys 10000] [--seed 7] [--json]

The read: a flight by its primary key, joined with how its airport did (flights, share on time, mean and 90th percentile
of the delay) over the airport's 7,500 flights. PostgreSQL has everything in memory, indexes for both, and connections
that stay open with the statement prepared: the read costs it a few milliseconds of a core, given as ``read_ms``. A
cheaper read gains less from a cache: a bare row by its key costs about as much as a GET of Redis.

The load: at random moments (a Poisson process), at ``--share`` of the reads per second that PostgreSQL alone can take,
which is measured first; keys by Zipf's law (1.0). It does not wait for anybody: a read's time runs from when it was
due, and each is a coroutine of its own. Both sides get the same moments and keys, in turn, within each round.
PostgreSQL alone has as many connections as the cache may have loads in flight (``--loads``); its readers wait for one
as long as it takes. The cache has its default settings otherwise. What it refuses (``SourceBusy``) counts with its
time.

- *cold*: from an empty Redis, seconds until 80 % of the reads of one second are hits;
- *hits, p99*: after ``awarm`` with the hottest 95 % of the keys; the rest misses as it comes. ``bypassed``: reads that
  left Redis for silent, as on a busy machine where it does not get its turn within 30 ms;
- *silent* (SIGSTOP), *killed* (SIGKILL): Redis goes away as the load begins. All reads count, the first too.

Bars: 80 % within a minute; 99 % hits; p99 ten times better; without Redis p99 at most 50 ms longer than PostgreSQL
alone, and never more loads at once than ``--loads``. Load, Redis and PostgreSQL share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import uvloop

from cache.redis_server import RedisServer
from headwater_cache import CachePolicy, EntityCache, Loaded
from headwater_cache.metrics import REQUESTS
from headwater_schemas.errors import Overloaded, Unavailable
from producers.postgres import binaries, postgres

BARS: Final = {"cold_seconds": 60, "hit_ratio": 0.99, "times_better_p99": 10, "added_p99_ms": 50}
FLIGHTS_PER_AIRPORT: Final = 7500
WARMED: Final = 0.95

TABLE: Final = """
    CREATE TABLE flight (
        id text PRIMARY KEY, airport int NOT NULL, carrier text NOT NULL, delay int NOT NULL, version bigint NOT NULL
    );
    INSERT INTO flight
        SELECT 'flight-' || n, n % {airports}, 'UA', (n * 7919) % 240 - 20, n FROM generate_series(0, {rows} - 1) n;
    CREATE INDEX ON flight (airport);
    ANALYZE flight;
"""
READ: Final = """
    SELECT id, carrier, delay, flights, on_time, mean, late, version
    FROM flight, LATERAL (
        SELECT count(*) AS flights, avg((of.delay <= 15)::int)::float8 AS on_time, avg(of.delay)::float8 AS mean,
               percentile_cont(0.9) WITHIN GROUP (ORDER BY of.delay) AS late
        FROM flight AS of WHERE of.airport = flight.airport
    ) AS whole
    WHERE id = %s
"""
COLUMNS: Final = ("id", "carrier", "delay", "flights", "on_time", "mean", "late")

Value = dict[str, Any]
Arrivals = Sequence[tuple[float, str]]
"""Seconds from the start when a read is due, and its key."""


class Database:
    """PostgreSQL behind so many connections, and the source of the cache. ``most``: loads at once, at most, so far."""

    def __init__(self, connections: Sequence[psycopg.AsyncConnection[tuple[Any, ...]]]) -> None:
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection[tuple[Any, ...]]] = asyncio.LifoQueue()
        self._connections = connections
        for connection in connections:
            self._free.put_nowait(connection)
        self._loads = self.most = 0

    @classmethod
    async def connect(cls, url: str, connections: int) -> Database:
        place = url.replace("+psycopg", "")
        return cls([await psycopg.AsyncConnection.connect(place, autocommit=True) for _ in range(connections)])

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def read(self, key: str) -> Loaded[Value] | None:
        """As soon as a connection is free."""
        connection = await self._free.get()
        try:
            row = await (await connection.execute(READ, (key,), prepare=True)).fetchone()
        finally:
            self._free.put_nowait(connection)
        return Loaded(dict(zip(COLUMNS, row, strict=False)), row[-1]) if row else None

    async def load(self, key: str) -> Loaded[Value] | None:
        self._loads += 1
        self.most = max(self.most, self._loads)
        try:
            return await self.read(key)
        finally:
            self._loads -= 1

    def write(self, key: str, value: Value | None) -> int:
        raise NotImplementedError("this bench reads")


class Zipf:
    """Keys by popularity: the n-th is read 1/n as often as the first."""

    def __init__(self, keys: int, chance: random.Random) -> None:
        self.keys = [f"flight-{number}" for number in range(keys)]
        chance.shuffle(self.keys)
        self._weights = list(accumulate(1 / rank for rank in range(1, keys + 1)))
        self._chance = chance

    def arrivals(self, rate: float, seconds: float) -> Arrivals:
        """A Poisson process."""
        due = list(accumulate(self._chance.expovariate(rate) for _ in range(round(rate * seconds))))
        return list(zip(due, self._chance.choices(self.keys, cum_weights=self._weights, k=len(due)), strict=True))


class Times(NamedTuple):
    """Of one load: milliseconds from due to done, sorted; how many reads got an error instead of a value."""

    ms: list[float]
    refused: int

    def at(self, share: float) -> float:
        return self.ms[int(len(self.ms) * share)]


async def offer(read: Callable[[str], Awaitable[Value | None]], arrivals: Arrivals) -> Times:
    """Let each read begin when it is due, whatever became of the others."""
    ms: list[float] = []
    refused = 0

    async def one(due: float, key: str) -> None:
        nonlocal refused
        try:
            value = await read(key)
            if value is None or value["id"] != key:
                raise SystemExit(f"the read of {key} gave {value}")
        except (Overloaded, Unavailable):
            refused += 1
        ms.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for due, key in arrivals:
            if (early := began + due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(began + due, key))
    return Times(sorted(ms), refused)


class Bench:
    """The phases, on one database and one Redis."""

    def __init__(self, options: argparse.Namespace, database: Database, server: RedisServer) -> None:
        self._options = options
        self._database = database
        self._server = server
        self._zipf = Zipf(options.keys, random.Random(options.seed))
        self._cache = EntityCache[Value](
            "flight", server.url, mode="cache", source=database, policy=CachePolicy(loads=options.loads)
        )
        self._rate = 0.0

    async def run(self) -> dict[str, Any]:
        options = self._options
        async with self._cache:
            read_ms, capacity = await self._capacity()
            self._rate = options.rate or round(options.share * capacity)
            tell(f"a read takes {read_ms:.1f} ms, at most {capacity:,.0f}/s; the load is {self._rate:,.0f}/s")
            cold = await self._cold()
            warmed = await self._warm()
            return {
                "bench": "cache-reads",
                "seed": options.seed,
                "rows": options.rows,
                "keys": options.keys,
                "loads": options.loads,
                "rounds": options.rounds,
                "read_ms": round(read_ms, 2),
                "capacity_per_second": round(capacity),
                "rate": self._rate,
                "cold_seconds": cold,
                "warmed": warmed,
                **await self._hot(),
                "silent": await self._away(self._server.freeze, self._server.thaw),
                "killed": await self._away(self._server.kill, self._server.start),
                "bars": BARS,
            }

    async def _alone(self, key: str) -> Value | None:
        loaded = await self._database.read(key)
        return loaded.value if loaded else None

    async def _capacity(self) -> tuple[float, float]:
        """Milliseconds of a read with nothing else going on; reads a second with every connection busy."""
        for key in self._zipf.keys[: 8 * self._options.loads]:
            await self._alone(key)
        took = [(await offer(self._alone, [(0, key)])).ms[0] for key in self._zipf.keys[:50]]
        until, done = time.perf_counter() + self._options.seconds, 0

        async def busily() -> None:
            nonlocal done
            while time.perf_counter() < until:
                await self._alone(self._zipf.keys[done % len(self._zipf.keys)])
                done += 1

        await asyncio.gather(*(busily() for _ in range(self._options.loads)))
        return statistics.median(took), done / self._options.seconds

    async def _cold(self) -> float | None:
        """Seconds until a second's reads have 80 % hits; ``None``: not within the bar."""
        began = time.perf_counter()
        while (seconds := time.perf_counter() - began) < BARS["cold_seconds"]:
            before = count("hit")
            reads = await offer(self._cache.aget, self._zipf.arrivals(self._rate, 1))
            ratio = (count("hit") - before) / len(reads.ms)
            tell(f"cold: {seconds + 1:4.0f} s: {ratio:.1%} hits")
            if ratio >= 0.8:
                return round(time.perf_counter() - began, 1)
        return None

    async def _warm(self) -> int:
        hottest = self._zipf.keys[: round(WARMED * len(self._zipf.keys))]
        return await self._cache.awarm(hottest, rate=1_000_000)

    async def _hot(self) -> dict[str, Any]:
        hits, bypassed, pairs = count("hit"), count("bypass"), []
        for _ in range(self._options.rounds):
            pairs.append(await self._pair())
            tell(f"warm: p99 {pairs[-1][1].at(0.99):.1f} ms, PostgreSQL alone {pairs[-1][0].at(0.99):.1f} ms")
        ratios = [alone.at(0.99) / ours.at(0.99) for alone, ours in pairs]
        return {
            "hit_ratio": round((count("hit") - hits) / sum(len(ours.ms) for _, ours in pairs), 4),
            "bypassed": round(count("bypass") - bypassed),
            "times_better_p99": round(statistics.median(ratios), 1),
            "times_better_p99_spread": [round(min(ratios), 1), round(max(ratios), 1)],
            **figures(pairs),
        }

    async def _away(self, leave: Callable[[], None], come_back: Callable[[], None]) -> dict[str, Any]:
        """Redis leaves just before each load, and is back and in use before the next."""
        self._database.most, pairs = 0, []
        for _ in range(self._options.rounds):
            pairs.append(await self._pair(leave))
            come_back()
            await self._in_use()
            tell(f"{leave.__name__}: p99 {pairs[-1][1].at(0.99):.1f} ms, alone {pairs[-1][0].at(0.99):.1f} ms")
        added = [ours.at(0.99) - alone.at(0.99) for alone, ours in pairs]
        return {
            "added_p99_ms": round(statistics.median(added), 1),
            "added_p99_ms_spread": [round(min(added), 1), round(max(added), 1)],
            "most_loads": self._database.most,
            **figures(pairs),
        }

    async def _pair(self, leave: Callable[[], None] | None = None) -> tuple[Times, Times]:
        """PostgreSQL alone, then the cache, with the same moments and keys."""
        arrivals = self._zipf.arrivals(self._rate, self._options.seconds)
        alone = await offer(self._alone, arrivals)
        if leave is not None:
            leave()
        return alone, await offer(self._cache.aget, arrivals)

    async def _in_use(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            before = count("hit")
            await self._cache.aget(self._zipf.keys[0])
            if count("hit") > before:
                return
            if time.monotonic() > deadline:
                raise SystemExit("Redis is back, and the cache has not used it for 30 s")
            await asyncio.sleep(0.05)


def count(result: str) -> float:
    """Reads so far that ended so: the cache's own metric."""
    return float(REQUESTS.labels("flight", "redis", result)._value.get())


def figures(pairs: Sequence[tuple[Times, Times]]) -> dict[str, Any]:
    """Medians over the rounds."""
    names = ("alone", "cached")
    return {
        f"{name}_p{share:.0%}_ms".replace("%", ""): round(statistics.median(pair[at].at(share) for pair in pairs), 2)
        for at, name in enumerate(names)
        for share in (0.5, 0.99)
    } | {"refused": sum(ours.refused for _, ours in pairs), "reads": sum(len(ours.ms) for _, ours in pairs)}


def passed(result: dict[str, Any]) -> bool:
    """Whether every bar is met."""
    away = [result["silent"], result["killed"]]
    return (
        result["cold_seconds"] is not None
        and result["hit_ratio"] >= BARS["hit_ratio"]
        and result["times_better_p99"] >= BARS["times_better_p99"]
        and all(of["added_p99_ms"] <= BARS["added_p99_ms"] and of["most_loads"] <= result["loads"] for of in away)
    )


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def measure(options: argparse.Namespace, url: str, server: RedisServer) -> dict[str, Any]:
    airports = max(1, options.rows // FLIGHTS_PER_AIRPORT)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in TABLE.format(rows=options.rows, airports=airports).split(";"):
            connection.execute(statement.encode())
    database = await Database.connect(url, options.loads)
    try:
        return await Bench(options, database, server).run()
    finally:
        await database.close()


def main() -> None:
    """Run and print; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000, help="flights in the table")
    parser.add_argument("--keys", type=int, default=10_000, help="flights that are read")
    parser.add_argument("--loads", type=int, default=8, help="connections, and CachePolicy.loads")
    parser.add_argument("--share", type=float, default=0.7, help="of what PostgreSQL can take")
    parser.add_argument("--rate", type=float, help="reads per second, in place of --share")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of moments and keys")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    programs = binaries()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    tell(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder, postgres(programs) as url:
        server = RedisServer(Path(folder))
        try:
            result = uvloop.run(measure(options, url, server))
        finally:
            server.kill()
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    sys.exit(0 if passed(result) else 1)


if __name__ == "__main__":
    main()
