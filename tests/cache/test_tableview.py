"""A view of a table of a real PostgreSQL: filled by chunks while the table is being written, then followed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis

from headwater_cache import ContinuityLost, EntityCache, MsgpackValues, PostgresTable, SourceFailed, TableView
from headwater_cache.pgoutput import Row
from headwater_cache.postgres import Chunk, Moment
from headwater_schemas.errors import UsageError
from producers.postgres import binaries, postgres

VALUES = MsgpackValues[Any]()
Database = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres(programs, wal_level="logical", max_replication_slots="50", max_wal_senders="10") as url:
        yield url.replace("postgresql+psycopg://", "postgresql://")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Writes to the table ``flights`` (id, state, note); every statement commits."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS flights")
        connection.execute("CREATE TABLE flights (id int PRIMARY KEY, state text NOT NULL, note text)")
        yield connection


class Hooked(PostgresTable):
    """Lets a test write at the moments that matter."""

    before: Callable[[], None] = staticmethod(lambda: None)
    after: Callable[[], None] = staticmethod(lambda: None)

    def chunk(self, after: str | None, size: int) -> Chunk:
        self.before()
        chunk = super().chunk(after, size)
        self.after()
        return chunk


@pytest.fixture
def table(database_url: str, database: Database, name: str) -> Iterator[Hooked]:
    slot = name.replace("-", "_")
    table = Hooked(lambda: psycopg.connect(database_url, options="-c synchronous_commit=local"), "flights", slot=slot)
    yield table
    table.drop()
    table.close()


@pytest.fixture
def cache(redis_url: str, name: str) -> Iterator[EntityCache[Any]]:
    with EntityCache[Any](name, redis_url, domain="lsn") as cache:
        yield cache


def view_of(cache: EntityCache[Any], table: PostgresTable, chunk: int = 10) -> TableView[Any]:
    return TableView(cache, table, VALUES, _state, chunk=chunk, sleep=lambda _: None)


def _state(row: Row) -> str:
    return str(row["state"])


def fill(database: Database, count: int) -> None:
    database.execute("INSERT INTO flights SELECT n, 'scheduled' FROM generate_series(1, %s) n", [count])


def truth(database: Database) -> dict[str, str]:
    return dict(database.execute("SELECT id::text, state FROM flights").fetchall())


def held(cache: EntityCache[Any], ids: int = 200) -> dict[str, str]:
    return cache.get_many([str(number) for number in range(ids)])


def test_a_table_is_filled_by_chunks_and_followed(cache: EntityCache[Any], table: Hooked, database: Database) -> None:
    """Then a miss means not found, and every change shows at the next step."""
    fill(database, 35)
    view, told = view_of(cache, table), list[int]()
    assert view.run(told.append) == 35
    assert told == [10, 20, 30, 35]
    assert held(cache) == truth(database)
    assert cache.get("999") is None

    database.execute("UPDATE flights SET state = 'departed' WHERE id < 5")
    database.execute("DELETE FROM flights WHERE id = 7")
    database.execute("UPDATE flights SET id = 100 WHERE id = 8")
    assert view.step() == 7
    assert held(cache) == truth(database)
    assert view.step() == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_r14_what_changes_in_the_window_of_a_chunk_is_taken_from_the_log(
    cache: EntityCache[Any], table: Hooked, database: Database, moment: str
) -> None:
    """Between the watermarks: rows of the chunk are updated, deleted, inserted and renamed (R14)."""
    fill(database, 10)

    def write() -> None:
        database.execute("UPDATE flights SET state = 'departed' WHERE id = 1")
        database.execute("DELETE FROM flights WHERE id = 2")
        database.execute("INSERT INTO flights VALUES (50, 'new')")
        database.execute("UPDATE flights SET id = 60 WHERE id = 3")
        setattr(table, moment, lambda: None)

    setattr(table, moment, write)
    view_of(cache, table).run()

    assert held(cache) == truth(database)
    assert held(cache)["1"] == "departed"


def test_r17_a_transaction_that_spans_the_window_is_not_overwritten(
    cache: EntityCache[Any], table: Hooked, database: Database, database_url: str
) -> None:
    """Its changes stand in the log before the low watermark, its commit after the high one (R17)."""
    fill(database, 10)
    view = view_of(cache, table)
    table.prepare()  # the slot waits for transactions that are running
    with psycopg.connect(database_url) as long:
        long.execute("UPDATE flights SET state = 'departed' WHERE id = 1")
        view.step()
        view.step()
        assert view.filled
        long.commit()
        view.step()

    assert held(cache) == truth(database)
    assert held(cache)["1"] == "departed"


def test_a_commit_that_readers_do_not_see_yet_is_not_overwritten(
    cache: EntityCache[Any], table: Hooked, database: Database, database_url: str
) -> None:
    """It waits for a standby: the log tells of it, the chunk has the row of before."""
    fill(database, 10)
    view = view_of(cache, table)
    table.prepare()
    _standby(database, "nobody")
    waiting = threading.Thread(target=_update, args=(database_url,))
    waiting.start()
    try:
        while not database.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall():
            pass
        view.step()
        view.step()
        assert truth(database)["1"] == "scheduled"
        assert held_when_ready(cache, view)["1"] == "departed"
    finally:
        _standby(database, "")
        waiting.join()

    assert truth(database)["1"] == "departed"
    assert held(cache) == truth(database)


def _standby(database: Database, name: str) -> None:
    database.execute("SET synchronous_commit = local")
    database.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    database.execute("SELECT pg_reload_conf()")
    while database.execute("SHOW synchronous_standby_names").fetchall() != [(name,)]:
        pass


def _update(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE flights SET state = 'departed' WHERE id = 1")


def held_when_ready(cache: EntityCache[Any], view: TableView[Any]) -> dict[str, str]:
    view.step()
    return held(cache)


@pytest.mark.parametrize("_attempt", range(8))
def test_any_interleaving_ends_equal(
    cache: EntityCache[Any], table: Hooked, database: Database, database_url: str, _attempt: int
) -> None:
    """Short and long transactions at random moments, a follower that is killed and begins anew; the seed is printed."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    fill(database, 60)
    table.prepare()
    connections = [psycopg.connect(database_url, options="-c lock_timeout=1") for _ in range(3)]

    def write() -> None:
        for _ in range(rng.randrange(4)):
            connection, number = rng.choice(connections), rng.randrange(1, 90)
            statement = rng.choice(
                [
                    f"INSERT INTO flights VALUES ({number}, 'in{rng.randrange(99)}') ON CONFLICT DO NOTHING",
                    f"UPDATE flights SET state = 'up{rng.randrange(99)}' WHERE id = {number}",
                    f"DELETE FROM flights WHERE id = {number}",
                    f"UPDATE flights SET id = {number + 90} WHERE id = {number} "
                    f"AND NOT EXISTS (SELECT 1 FROM flights WHERE id = {number + 90})",
                ]
            )
            try:
                connection.execute(statement)
            except psycopg.Error:
                connection.rollback()
            if rng.random() < 0.5:
                rng.choice((connection.commit, connection.commit, connection.rollback))()

    table.before = table.after = write
    view = view_of(cache, table, chunk=7)
    for _ in range(16):
        write()
        view.step()
        if rng.random() < 0.2:
            view = view_of(cache, table, chunk=7)  # as after kill -9
    for connection in connections:
        connection.commit()
        connection.close()
    table.before = table.after = lambda: None
    view.run()

    assert held(cache) == truth(database)


def test_a_snapshot_goes_on_where_it_stopped(cache: EntityCache[Any], table: Hooked, database: Database) -> None:
    """What was done before is not read again; what changed meanwhile is in the log."""
    fill(database, 50)
    first = view_of(cache, table)
    first.step()
    first.step()
    database.execute("UPDATE flights SET state = 'departed' WHERE id = 1")
    told: list[int] = []
    view_of(cache, table).run(told.append)

    assert told == [30, 40, 50]
    assert held(cache) == truth(database)


def test_the_log_is_let_go_while_nothing_happens(cache: EntityCache[Any], table: Hooked, database: Database) -> None:
    """Other tables are written; the server need not keep their log for a view that has seen the end."""
    view = view_of(cache, table)
    view.run()
    database.execute("CREATE TABLE IF NOT EXISTS others AS SELECT generate_series(1, 1000) n")
    before = table.confirmed()
    view.step()

    assert table.confirmed() > before
    database.execute("DROP TABLE others")


def test_an_emptied_view_starts_over(
    cache: EntityCache[Any], table: Hooked, database: Database, raw: redis.Redis, name: str
) -> None:
    """The log it was filled from is gone; the table is not."""
    fill(database, 20)
    view = view_of(cache, table)
    view.run()
    database.execute("DELETE FROM flights WHERE id = 1")
    for key in raw.keys(f"{{{name}:*"):
        raw.delete(key)
    view.step()
    assert not view.filled
    view.run()

    assert held(cache) == truth(database)


def test_a_view_that_lost_a_part_says_so(
    cache: EntityCache[Any], table: Hooked, database: Database, raw: redis.Redis, name: str
) -> None:
    """A failover to a replica that was behind: the server has forgotten the log of what is missing."""
    fill(database, 20)
    view = view_of(cache, table)
    view.run()
    marks = raw.hgetall(f"{{{name}:1}}:watermark")
    database.execute("DELETE FROM flights WHERE id = 1")
    view.step()
    for field, value in marks.items():  # what the replica has
        raw.hset(f"{{{name}:1}}:watermark", field, value)

    with pytest.raises(ContinuityLost, match="failover"):
        view_of(cache, table).run()


def test_a_large_column_that_an_update_leaves_out_is_asked_for(
    cache: EntityCache[Any], table: Hooked, database: Database, redis_url: str, name: str
) -> None:
    """The error says what to do; a new epoch through a new slot has everything."""
    view = TableView(cache, table, VALUES, chunk=10, sleep=lambda _: None)
    database.execute("INSERT INTO flights SELECT 1, 'new', string_agg(md5(n::text), '') FROM generate_series(1, 500) n")
    view.run()
    database.execute("UPDATE flights SET state = 'departed'")
    with pytest.raises(UsageError, match="REPLICA IDENTITY FULL"):
        view.step()

    database.execute("ALTER TABLE flights REPLICA IDENTITY FULL")
    table.drop()
    again = PostgresTable(table._connect, "flights", slot=f"{table.slot}_2")
    with pytest.raises(UsageError, match="new epoch"):
        TableView(cache, again, VALUES).step()
    with EntityCache[Any](name, redis_url, domain="lsn", epoch=2) as fresh:
        view = TableView(fresh, again, VALUES, chunk=10, sleep=lambda _: None)
        view.run()
        database.execute("UPDATE flights SET state = 'landed'")
        view.step()
        row = fresh.get("1")
    again.drop()
    again.close()
    assert row is not None
    assert (row["state"], len(row["note"])) == ("landed", 16_000)


def test_what_can_not_work_says_why(
    cache: EntityCache[Any], database: Database, database_url: str, redis_url: str, name: str, table: Hooked
) -> None:
    """Wrong table, column, domain, database; a truncated table."""

    open_ones: list[PostgresTable] = []

    def of(table: str, key: str = "id", url: str = database_url) -> PostgresTable:
        open_ones.append(PostgresTable(lambda: psycopg.connect(url, connect_timeout=2), table, key=key, slot="s"))
        return open_ones[-1]

    with pytest.raises(UsageError, match="no table"):
        view_of(cache, of("nothing")).step()
    with pytest.raises(UsageError, match="no column"):
        view_of(cache, of("flights", key="nr")).step()
    with pytest.raises(UsageError, match="plain name"):
        of('flights"; DROP TABLE flights')
    with pytest.raises(SourceFailed):
        view_of(cache, of("flights", url="host=127.0.0.1 port=1")).step()
    for table_of in open_ones:
        table_of.close()
    with EntityCache[Any](name, redis_url) as of_log, pytest.raises(UsageError, match="domain='lsn'"):
        view_of(of_log, table)
    view = view_of(cache, table)
    view.run()
    database.execute("TRUNCATE flights")
    with pytest.raises(UsageError, match="truncated"):
        view.step()


def test_a_moment_tells_what_it_has_seen_across_the_wrap_of_transaction_numbers() -> None:
    """The log has 32 bits of them, the snapshot 64."""
    base = 3 << 32
    moment = Moment(base - 5, base + 5, frozenset({base + 1}))

    assert [moment.sees(xid & 0xFFFFFFFF) for xid in (base - 9, base - 1, base, base + 1, base + 5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
