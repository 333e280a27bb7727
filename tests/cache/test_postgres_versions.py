"""Versions from one sequence of a real PostgreSQL, as docs/cache.md tells: they are right however writes meet."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from headwater_cache import Change, EntityCache, Loaded, MsgpackValues, version
from producers.postgres import binaries, postgres

KEYS = "abcdef"
VALUES = MsgpackValues[str]()


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres(programs) as url:
        yield url.replace("postgresql+psycopg://", "postgresql://")


def recipe() -> str:
    """The SQL block of the page."""
    page = Path(__file__).parents[2].joinpath("docs/cache.md").read_text("utf-8")
    return page.split("```sql\n")[1].split("```")[0]


class Orders:
    """The source of the page; each thread has a connection of its own. Keeps the events, as an outbox would."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()
        self._opened: list[psycopg.Connection[tuple[object, ...]]] = []
        self.events: list[Change] = []

    @property
    def _database(self) -> psycopg.Connection[tuple[object, ...]]:
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg.connect(self._url, autocommit=True)
            self._opened.append(self._local.connection)
        connection: psycopg.Connection[tuple[object, ...]] = self._local.connection
        return connection

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def load(self, key: str) -> Loaded[str] | None:
        found = self._database.execute(
            "SELECT state, version FROM orders WHERE id = %s AND NOT deleted", [key]
        ).fetchone()
        return None if found is None else Loaded(str(found[0]), int(str(found[1])))

    def write(self, key: str, value: str | None) -> int:
        given = self._database.execute(
            "INSERT INTO orders (id, state, deleted) VALUES (%s, %s, %s)"
            " ON CONFLICT (id) DO UPDATE SET state = excluded.state, deleted = excluded.deleted RETURNING version",
            [key, value or "", value is None],
        ).fetchone()
        assert given is not None
        number = int(str(given[0]))
        self.events.append(Change(key, version(number), None if value is None else VALUES.encode(value)[1]))
        return number


@pytest.fixture
def orders(database_url: str) -> Iterator[Orders]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS orders; DROP SEQUENCE IF EXISTS shop_versions")
        connection.execute(recipe().encode())
    with closing(Orders(database_url)) as source:
        yield source


def test_r7_a_row_that_comes_back_is_newer_than_its_delete(orders: Orders, redis_url: str, name: str) -> None:
    """A counter of its own would begin at 1 again."""
    with EntityCache[str](name, redis_url, mode="cache", source=orders) as cache:
        tokens = [cache.put("a", "placed"), cache.put("a", "paid"), cache.delete("a"), cache.put("a", "placed")]

        assert [int(token.version) for token in tokens] == sorted({int(token.version) for token in tokens})
        assert cache.get("a") == "placed"
        assert cache.apply_many(orders.events)[0].outcome == "superseded"
        assert cache.get("a", min_version=tokens[-1]) == "placed"


def test_writers_side_by_side_and_events_in_any_order_end_as_the_table(
    orders: Orders, redis_url: str, name: str
) -> None:
    """Six threads write the same rows through the cache; events arrive late, twice and in any order (R2, R5, R8)."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    with EntityCache[str](name, redis_url, mode="cache", source=orders) as cache:

        def work(number: int) -> None:
            rng = random.Random(seed + number)
            for step in range(60):
                key = rng.choice(KEYS)
                match rng.randrange(4):
                    case 0:
                        cache.delete(key)
                    case 1:
                        cache.get(key)
                    case 2 if orders.events:
                        cache.apply_many(rng.sample(orders.events, min(5, len(orders.events))))
                    case _:
                        cache.put(key, f"{number}-{step}")

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6)))
        rng = random.Random(seed)
        cache.apply_many(rng.sample(orders.events * 2, len(orders.events)))

        for key in KEYS:
            row = orders.load(key)
            held = cache.explain(key)
            if held.state == "V":
                assert row is not None
                assert held.version == f"log:0:{row.version}"
            assert cache.get(key) == (None if row is None else row.value)
