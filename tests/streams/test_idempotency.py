"""A record that was handled is not handled again: on real Redis, and in real databases."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from headwater_cache import RedisSettings
from headwater_schemas.clock import ManualClock
from headwater_schemas.durations import seconds
from headwater_schemas.errors import CacheUnavailable, Unavailable, UsageError
from headwater_streams import DeadLetter, EventContext, Retry, StreamApp
from headwater_streams.idempotency import InProgress, RedisMarks, idempotent
from headwater_streams.idempotency.inbox import Inbox, InboxMark, InboxUnavailable, create_inbox, purge_inbox
from headwater_streams.testing import StreamKit
from producers.postgres import binaries, postgres
from streams.orders import OUT, TOPIC, memory_app, order


class Order(msgspec.Struct):
    key: str
    number: int


GROUP = "billing"
NOWHERE = "redis://127.0.0.1:1/0"


def happened(id_: str = "e-1") -> Any:
    """An event context, as far as ``@idempotent`` looks at it."""
    return SimpleNamespace(id=id_, unacked=0, refused=None)


# Redis


@pytest.fixture
def name() -> str:
    """A handler's name that no other test uses."""
    return f"charge-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def marks(redis_url: str) -> AsyncIterator[RedisMarks]:
    marks = RedisMarks(RedisSettings(redis_url), GROUP)
    yield marks
    await marks.aclose()
    marks.close()


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def outcomes(name: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("headwater_idempotent_calls_total", {"handler": name, "outcome": outcome}) or 0.0


async def test_a_repeated_record_is_skipped_and_another_is_not(marks: RedisMarks, name: str) -> None:
    seen = []

    @idempotent(marks, name=name)
    async def charge(value: int, event: EventContext) -> None:
        seen.append((value, event.id))

    for id_ in ("a", "a", "b", "a"):
        await charge(1, happened(id_))
    assert seen == [(1, "a"), (1, "b")]
    assert (outcomes(name, "done"), outcomes(name, "repeated")) == (2, 2)


def test_a_synchronous_handler_may_be_idempotent_too(marks: RedisMarks, name: str) -> None:
    seen = []

    @idempotent(marks, name=name, key=lambda value, event: value)
    def charge(value: str) -> None:
        seen.append(value)

    for value in ("a", "a", "b"):
        charge(value, happened())
    assert seen == ["a", "b"]


async def test_a_handler_that_raises_runs_again(marks: RedisMarks, name: str) -> None:
    tries = []

    @idempotent(marks, name=name)
    async def charge(value: int) -> None:
        tries.append(value)
        if len(tries) < 3:
            raise ValueError("no luck")

    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            await charge(1, happened())
    await charge(1, happened())
    await charge(1, happened())
    assert len(tries) == 3


async def test_a_handler_that_is_cancelled_runs_again(marks: RedisMarks, name: str) -> None:
    started, release, done = asyncio.Event(), asyncio.Event(), []

    @idempotent(marks, name=name)
    async def charge(value: int) -> None:
        started.set()
        await release.wait()
        done.append(value)

    task = asyncio.create_task(charge(1, happened()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await charge(1, happened())
    assert done == [1]


async def test_of_concurrent_repetitions_one_runs_and_the_others_wait(
    marks: RedisMarks, redis_url: str, name: str
) -> None:
    elsewhere = RedisMarks(RedisSettings(redis_url), GROUP)
    started, release, seen = asyncio.Event(), asyncio.Event(), []

    async def charge(value: str) -> None:
        seen.append(value)
        started.set()
        await release.wait()

    here, there = idempotent(marks, name=name)(charge), idempotent(elsewhere, name=name)(charge)
    first = asyncio.create_task(here("first", happened()))
    await started.wait()
    for handler in (here, there):
        with pytest.raises(InProgress):
            await handler("second", happened())
    release.set()
    await first
    for handler in (here, there):
        await handler("third", happened())
    assert seen == ["first"]
    assert outcomes(name, "in-progress") == 2
    await elsewhere.aclose()


KILLED = """
import os, signal, sys
from types import SimpleNamespace
from headwater_cache import RedisSettings
from headwater_streams.idempotency import RedisMarks, idempotent

@idempotent(RedisMarks(RedisSettings(sys.argv[1]), "billing"), name=sys.argv[2])
def charge(value):
    print("charged", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

charge(1, SimpleNamespace(id="e-1", unacked=0, refused=None))
"""


def test_a_process_killed_before_its_mark_lets_the_record_run_when_the_lease_is_over(
    marks: RedisMarks, redis_url: str, server: redis.Redis, name: str
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, redis_url, name], capture_output=True, text=True)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "charged\n"), killed.stderr
    seen = []

    @idempotent(marks, name=name)
    def charge(value: int) -> None:
        seen.append(value)

    with pytest.raises(InProgress):
        charge(1, happened())
    claim = stored(name, "e-1")
    assert 0 < server.pttl(claim) <= 300_000
    expire(server, claim)
    charge(1, happened())
    assert seen == [1]  # the second time that it happened: at least once


def stored(name: str, key: str) -> str:
    """Where the claim or mark is."""
    return f"hw:done:{GROUP}:{name}:{key}"


def expire(server: redis.Redis, key: str) -> None:
    """Time passes."""
    assert server.pexpireat(key, 1) == 1
    assert server.get(key) is None


async def test_a_mark_lives_for_its_ttl_and_then_the_record_runs_again(
    marks: RedisMarks, server: redis.Redis, name: str
) -> None:
    seen = []

    @idempotent(marks, name=name, ttl="1h")
    async def charge(value: int) -> None:
        seen.append(value)

    await charge(1, happened())
    mark = stored(name, "e-1")
    assert 3_590_000 < server.pttl(mark) <= 3_600_000
    expire(server, mark)
    await charge(2, happened())
    assert seen == [1, 2]


async def test_a_handler_that_outlives_its_lease_is_counted(
    marks: RedisMarks, redis_url: str, server: redis.Redis, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = RedisMarks(RedisSettings(redis_url), GROUP)

    @idempotent(elsewhere, name=name)
    async def repeat(value: int) -> None: ...

    @idempotent(marks, name=name)
    async def charge(value: int, event: EventContext) -> None:
        expire(server, stored(name, event.id))
        if value == 2:
            await repeat(value, happened("b"))

    await charge(1, happened("a"))  # nobody took it meanwhile: it is marked all the same
    await charge(1, happened("a"))
    assert (outcomes(name, "done"), outcomes(name, "repeated")) == (1, 1)

    await charge(2, happened("b"))
    assert outcomes(name, "overrun") == 1
    assert "was handled twice: raise the lease" in caplog.text
    await elsewhere.aclose()


async def test_without_redis_nothing_runs_and_the_record_waits(name: str) -> None:
    marks = RedisMarks(RedisSettings(NOWHERE), GROUP)

    @idempotent(marks, name=name)
    async def charge(value: int) -> None:
        raise AssertionError("it must not run")

    with pytest.raises(CacheUnavailable):
        await charge(1, happened())
    await marks.aclose()


async def test_a_mark_that_cannot_be_written_does_not_fail_the_record(
    marks: RedisMarks, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @idempotent(marks, name=name)
    async def charge(value: int) -> None:
        breaker = marks._connection.breaker
        for _ in range(10):
            breaker.record(False)  # Redis is away from here on

    await charge(1, happened())
    assert outcomes(name, "unmarked") == 1
    assert "done and not marked" in caplog.text


async def test_handlers_and_groups_remember_for_themselves(marks: RedisMarks, redis_url: str, name: str) -> None:
    other_group = RedisMarks(RedisSettings(redis_url), "shipping")
    seen = []

    async def note(value: str) -> None:
        seen.append(value)

    await idempotent(marks, name=name)(note)("a", happened())
    await idempotent(marks, name=name + "-2")(note)("b", happened())
    await idempotent(other_group, name=name)(note)("c", happened())
    assert seen == ["a", "b", "c"]
    await other_group.aclose()


# With the app


async def test_the_app_sees_the_handlers_own_signature(marks: RedisMarks, name: str) -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC)
    @idempotent(marks, key=lambda value, event: f"{value.key}-{value.number}", name=name)
    async def charge(value: Order) -> None:
        seen.append(value)

    [spec] = app.specs
    assert (spec.name, spec.value_type, spec.takes_event, spec.is_async) == ("charge", Order, True, True)
    async with StreamKit(app) as kit:
        for number in (1, 2, 1):
            kit.send(TOPIC, order("a", number), key="a")
        await eventually(kit, lambda: len(seen) == 2 and outcomes(name, "repeated") == 1)
    assert seen == [Order("a", 1), Order("a", 2)]


async def eventually(kit: StreamKit, condition: Callable[[], bool]) -> None:
    """The kit cannot see that Redis will answer; go on until it has."""
    for _ in range(500):
        await kit.settle()
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


async def test_a_retry_runs_and_a_dead_letter_is_not_marked(marks: RedisMarks, name: str) -> None:
    app, tries = memory_app(), []

    @app.handler(TOPIC, retry=Retry("1s"))
    @idempotent(marks, name=name)
    async def charge(value: dict[str, Any]) -> None:
        tries.append(value["number"])
        if value["number"] == 2:
            raise DeadLetter("bad")
        if len(tries) == 1:
            raise ValueError("once more")

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 1), key="a")
        await eventually(kit, lambda: len(tries) == 1 and outcomes(name, "failed") == 1)
        await kit.advance("2s")
        await eventually(kit, lambda: outcomes(name, "done") == 1)
        kit.send(TOPIC, order("b", 2), key="b")
        await eventually(kit, lambda: outcomes(name, "failed") == 2)
    assert tries == [1, 1, 2]


async def test_a_mark_waits_for_what_the_handler_emitted(marks: RedisMarks, name: str) -> None:
    app, ran = memory_app(), asyncio.Event()

    @app.handler(TOPIC)
    @idempotent(marks, name=name)
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        event.emit(OUT, value, key="a")
        ran.set()

    async with StreamKit(app) as kit:
        kit.broker.hold(OUT)
        kit.send(TOPIC, order("a", 1), key="a")
        await eventually(kit_without_rest(kit), ran.is_set)
        await asyncio.sleep(0.02)
        assert outcomes(name, "done") == 0
        kit.broker.acknowledge(OUT)
        await eventually(kit, lambda: outcomes(name, "done") == 1)


def kit_without_rest(kit: StreamKit) -> Any:
    """For a handler that waits for what the kit does not bring about."""

    async def settle() -> None:
        await kit._fetch()
        await asyncio.sleep(0)

    return SimpleNamespace(settle=settle)


async def test_what_the_broker_refuses_fails_the_handler(marks: RedisMarks, name: str) -> None:
    @idempotent(marks, name=name)
    async def charge(value: int, event: Any) -> None:
        event.refused = DeadLetter("too large")

    with pytest.raises(DeadLetter, match="too large"):
        await charge(1, happened())
    assert outcomes(name, "failed") == 1


# Declaring


def test_a_declaration_that_cannot_be_says_what_to_pass(redis_url: str) -> None:
    settings = RedisSettings(redis_url)
    marks = RedisMarks(settings, GROUP)
    with pytest.raises(UsageError, match="at least '1ms'"):
        idempotent(marks, ttl=0)
    with pytest.raises(UsageError, match=r"must take \(value\) or \(value, event\); it takes 3"):
        idempotent(marks)(lambda value, event, session: None)
    with pytest.raises(UsageError, match=r"must take \(value, event, session\); it takes 1"):
        idempotent(Inbox(sessionmaker(), GROUP))(lambda value: None)
    with pytest.raises(UsageError, match="pass the consumer group"):
        RedisMarks(settings, "")
    with pytest.raises(UsageError, match="lease='10ms'"):
        RedisMarks(settings, GROUP, lease="10ms")
    with pytest.raises(UsageError, match="pass the consumer group"):
        Inbox(sessionmaker(), "")


@pytest.mark.parametrize("key", ["", None, 7])
async def test_a_key_is_a_text(key: Any) -> None:
    @idempotent(RedisMarks(RedisSettings(NOWHERE), GROUP), key=lambda value, event: key)
    async def charge(value: int) -> None: ...

    with pytest.raises(UsageError, match="a text that is not empty"):
        await charge(1, happened())


# Databases


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(programs) as url:
        yield url


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    yield from bookings(url)


@pytest.fixture
def pg_engine(postgres_url: str) -> Iterator[Engine]:
    yield from bookings(postgres_url)


def bookings(url: str) -> Iterator[Engine]:
    """A database with an inbox and a table that the handlers write to, both empty."""
    engine = create_engine(url)
    with engine.begin() as connection:
        create_inbox(connection)
        connection.execute(text("DROP TABLE IF EXISTS booking"))
        connection.execute(text("CREATE TABLE booking (what TEXT)"))
        connection.execute(text("DELETE FROM inbox"))
    yield engine
    engine.dispose()


def booked(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT what FROM booking ORDER BY what")))


def book(value: str, event: Any, session: Session) -> None:
    session.execute(text("INSERT INTO booking VALUES (:what)"), {"what": value})


def test_effect_and_mark_are_committed_together(engine: Engine) -> None:
    handler = idempotent(Inbox(sessionmaker(engine), GROUP))(book)
    for value, id_ in (("a", "1"), ("b", "1"), ("c", "2")):
        handler(value, happened(id_))
    assert booked(engine) == ["a", "c"]


def test_a_handler_that_raises_leaves_neither_effect_nor_mark(engine: Engine) -> None:
    def fail(value: str, event: Any, session: Session) -> None:
        book(value, event, session)
        raise ValueError("no luck")

    inbox = Inbox(sessionmaker(engine), GROUP)
    with pytest.raises(ValueError, match="no luck"):
        idempotent(inbox, name="book")(fail)("a", happened())
    assert booked(engine) == []
    idempotent(inbox)(book)("b", happened())
    assert booked(engine) == ["b"]


async def test_a_coroutine_function_gets_an_async_session(pg_engine: Engine, postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)

    @idempotent(Inbox(async_sessionmaker(engine), GROUP), key=lambda value, event: value)
    async def handler(value: str, event: EventContext, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO booking VALUES (:what)"), {"what": value})

    for value in ("a", "a", "b"):
        await handler(value, happened())
    assert booked(pg_engine) == ["a", "b"]
    await engine.dispose()


def test_what_expired_runs_again_and_is_purged(engine: Engine) -> None:
    clock = ManualClock()
    handler = idempotent(Inbox(sessionmaker(engine), GROUP, clock=clock), ttl="1h")(book)
    handler("a", happened())
    clock.advance(seconds("59m"))
    handler("b", happened())
    clock.advance(seconds("1m"))
    handler("c", happened())
    assert booked(engine) == ["a", "c"]

    def purged() -> int:
        with engine.begin() as connection:
            return purge_inbox(connection, datetime.fromtimestamp(clock.time(), UTC))

    assert purged() == 0
    clock.advance(seconds("1h"))
    assert purged() == 1
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(InboxMark)) == 0


def test_of_concurrent_repetitions_one_takes_effect(pg_engine: Engine) -> None:
    inbox = Inbox(sessionmaker(pg_engine), GROUP)
    inside, release = threading.Event(), threading.Event()

    def slowly(value: str, event: Any, session: Session) -> None:
        book(value, event, session)
        inside.set()
        assert release.wait(20)

    handlers = [
        threading.Thread(target=idempotent(inbox, name="book")(slowly), args=("first", happened())),
        *(threading.Thread(target=idempotent(inbox)(book), args=(f"{n}", happened())) for n in range(4)),
    ]
    handlers[0].start()
    assert inside.wait(20)
    for thread in handlers[1:]:
        thread.start()
    await_blocked(pg_engine, 4)
    release.set()
    for thread in handlers:
        thread.join(20)
    assert booked(pg_engine) == ["first"]


def await_blocked(engine: Engine, number: int) -> None:
    """Until so many transactions wait for another one."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for _ in range(1000):
        with engine.connect() as connection:
            if connection.scalar(waiting) == number:
                return
        threading.Event().wait(0.01)
    raise AssertionError("they do not wait")


def test_a_repetition_runs_when_the_first_one_is_rolled_back(pg_engine: Engine) -> None:
    inbox = Inbox(sessionmaker(pg_engine), GROUP)
    inside, release = threading.Event(), threading.Event()

    def doomed(value: str, event: Any, session: Session) -> None:
        book(value, event, session)
        inside.set()
        assert release.wait(20)
        raise ValueError("no luck")

    def first() -> None:
        with pytest.raises(ValueError, match="no luck"):
            idempotent(inbox, name="book")(doomed)("first", happened())

    threads = [
        threading.Thread(target=first),
        threading.Thread(target=idempotent(inbox)(book), args=("second", happened())),
    ]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    await_blocked(pg_engine, 1)
    release.set()
    for thread in threads:
        thread.join(20)
    assert booked(pg_engine) == ["second"]


KILLED_IN_TRANSACTION = """
import os, signal, sys
from types import SimpleNamespace
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from headwater_streams.idempotency import idempotent
from headwater_streams.idempotency.inbox import Inbox

@idempotent(Inbox(sessionmaker(create_engine(sys.argv[1])), "billing"))
def book(value, event, session):
    session.execute(text("INSERT INTO booking VALUES ('killed')"))
    if event.id == "killed":
        os.kill(os.getpid(), signal.SIGKILL)

for id_ in ("committed", "killed"):
    book(1, SimpleNamespace(id=id_, unacked=0, refused=None))
"""


def test_a_process_killed_before_its_commit_leaves_nothing_and_the_repetition_does_it_all(
    engine: Engine, url: str
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_TRANSACTION, url], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    handler = idempotent(Inbox(sessionmaker(engine), GROUP))(book)
    for id_ in ("committed", "killed"):
        handler("repeated", happened(id_))
    assert booked(engine) == ["killed", "repeated"]


def test_an_inbox_in_trouble_says_so(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE inbox"))
    with pytest.raises(UsageError, match="create_inbox"):
        idempotent(Inbox(sessionmaker(engine), GROUP))(book)("a", happened())

    away = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(InboxUnavailable, match="does not answer") as caught:
        idempotent(Inbox(sessionmaker(away), GROUP))(book)("a", happened())
    assert isinstance(caught.value, Unavailable)
    away.dispose()


def test_a_sessionmaker_of_the_other_kind_is_refused(engine: Engine) -> None:
    async def book_async(value: str, event: Any, session: AsyncSession) -> None: ...

    with pytest.raises(UsageError, match="give its Inbox a sessionmaker"):
        idempotent(Inbox(async_sessionmaker(), GROUP))(book)("a", happened())
    with pytest.raises(UsageError, match="give its Inbox an async_sessionmaker"):
        asyncio.run(idempotent(Inbox(sessionmaker(engine), GROUP))(book_async)("a", happened()))


@pytest.mark.parametrize("key", ["x" * 3000, "a\0b", "\ud800", "line\nbreak"])
def test_any_text_will_do_as_a_key(engine: Engine, key: str) -> None:
    handler = idempotent(Inbox(sessionmaker(engine), GROUP), key=lambda value, event: key)(book)
    handler("a", happened())
    handler("b", happened())
    assert booked(engine) == ["a"]


def test_it_is_refused_in_a_transactional_app(marks: RedisMarks, name: str) -> None:
    known = memory_app()
    app = StreamApp("billing", catalogue=known.catalogue, codec=known.codec, processing="transactional")

    @idempotent(marks, name=name)
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        """Nothing."""

    with pytest.raises(UsageError, match="leave @idempotent off"):
        app.handler(TOPIC)(charge)
