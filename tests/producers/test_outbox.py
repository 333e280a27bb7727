"""What a transaction commits is sent, in order per key, by however many relays, whatever is killed."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, delete, func, insert, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from headwater_producers.errors import OutboxUnavailable
from headwater_producers.outbox import Outbox, OutboxEvent, Relay, RelaySettings, create_outbox
from headwater_producers.outbox.batch import Batches
from headwater_producers.outbox.table import LANES, OutboxLane
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.errors import (
    BrokerUnavailable,
    InvalidValue,
    SettingError,
    UnknownTopic,
    UsageError,
)
from headwater_schemas.partitioner import partition_for
from headwater_schemas.settings import Environment
from producers.broker import Broker
from producers.orders import NOWHERE, PARTITIONS, SCHEMA, alter_topic, create_topic, order, read_all, settings_for
from producers.postgres import binaries, postgres

MakeRelay = Callable[..., Relay]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(programs) as url:
        yield url


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/outbox.db"
        return
    with database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    with database(postgres_url) as url:
        yield url


@contextmanager
def database(server: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.rpartition("/")[0] + f"/{name}"
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """With an outbox in it."""
    engine = create_engine(url)
    create_outbox(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def make_relay(url: str, bootstrap: str) -> Iterator[MakeRelay]:
    made: list[Relay] = []

    def make(bootstrap: str = bootstrap, **settings: Any) -> Relay:
        made.append(Relay(RelaySettings(url, **settings), settings_for(bootstrap)))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def relay_all(relay: Relay) -> int:
    total = 0
    while dealt_with := relay.relay_once():
        total += dealt_with
    return total


@contextmanager
def running(*relays: Relay) -> Iterator[None]:
    """The relays run in threads, until the block ends."""
    stop = threading.Event()
    threads = [threading.Thread(target=relay.run, args=(stop,)) for relay in relays]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def waiting(engine: Engine) -> int:
    with Session(engine) as session:
        return (
            session.scalar(select(func.count()).where(OutboxEvent.sent_at.is_(None), OutboxEvent.error.is_(None))) or 0
        )


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def numbers(records: list[Any]) -> dict[bytes, list[int]]:
    """By key, the first occurrences of the numbers in the ids, in the order of the log."""
    seen: dict[bytes, dict[int, None]] = {}
    for record in records:
        seen.setdefault(record.key, {})[int(dict(record.headers)["ce_id"])] = None
    return {key: list(found) for key, found in seen.items()}


# Adding


def test_what_is_committed_stands_on_the_log_as_an_emit_would_put_it(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, bootstrap: str, topic: str
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Session(engine) as session, session.begin():
        event_id = outbox.add(session, topic, order(7), "o-7", headers={"tenant": "blue"}, traceparent=trace)
    assert relay_all(make_relay()) == 1

    [record] = read_all(bootstrap, topic)
    assert (record.key, record.partition) == (b"o-7", partition_for(b"o-7", PARTITIONS))
    assert record.value[:1] == b"\0"
    assert fastavro.schemaless_reader(io.BytesIO(record.value[5:]), SCHEMA, None) == order(7)
    headers = dict(record.headers)
    assert abs(datetime.fromisoformat(headers.pop("ce_time").decode()) - datetime.now(UTC)) < timedelta(minutes=1)
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": event_id.encode(),
        "ce_source": b"orders-service",
        "ce_type": topic.encode(),
        "content-type": b"application/avro",
        "traceparent": trace.encode(),
        "tenant": b"blue",
    }
    assert waiting(engine) == 0


def test_what_is_rolled_back_is_never_sent(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, topic: str, bootstrap: str
) -> None:
    with Session(engine) as session:
        outbox.add(session, topic, order(1), "a")
        session.flush()
        session.rollback()
    assert relay_all(make_relay()) == 0
    assert read_all(bootstrap, topic) == []


def test_the_columns_are_debeziums(engine: Engine, outbox: Outbox, topic_name: str) -> None:
    with Session(engine) as session, session.begin():
        outbox.add(session, topic_name, order(7), b"o-7", id="event-1")
        outbox.add(session, f"{topic_name}-compacted", None, "o-8", id="event-2")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, aggregatetype, aggregateid, type, payload FROM outbox ORDER BY seq"))
        first, second = rows.all()
    assert first[:4] == ("event-1", topic_name, "o-7", topic_name)
    assert bytes(first[4])[:1] == b"\0"
    assert second == ("event-2", f"{topic_name}-compacted", "o-8", f"{topic_name}-compacted", None)


def test_an_outbox_of_the_settings_uses_the_registry_that_they_name_and_closes_it(
    engine: Engine, env: Environment
) -> None:
    with Outbox.from_env(source="auditor", env=env) as outbox, Session(engine) as session, session.begin():
        with pytest.raises(InvalidValue, match="actor"):
            outbox.add(session, "headwater.audit", {"at": datetime.now(UTC)}, "k")
    registry = outbox._own_registry
    assert registry is not None
    with pytest.raises(UsageError, match="closed"):
        registry.register("headwater.audit-value", SCHEMA)


def test_what_is_wrong_is_said_before_the_transaction_knows_of_it(
    engine: Engine, outbox: Outbox, topic_name: str
) -> None:
    with Session(engine) as session:
        with pytest.raises(InvalidValue):
            outbox.add(session, topic_name, order(1, amount="many"), "a")
        with pytest.raises(UnknownTopic):
            outbox.add(session, "nowhere", order(1), "a")
        with pytest.raises(UsageError, match="pass UTF-8"):
            outbox.add(session, topic_name, order(1), b"\xff")
        with pytest.raises(UsageError, match="up to 255"):
            outbox.add(session, topic_name, order(1), "x" * 256)
        with pytest.raises(UsageError, match="headers as text"):
            outbox.add(session, topic_name, order(1), "a", headers={"raw": b"x"})  # type: ignore[dict-item]  # the point
        assert list(session.new) == []


async def test_an_async_session_will_do(
    postgres_database: str, catalogue: Catalogue, topic_name: str, outbox: Outbox
) -> None:
    plain = create_engine(postgres_database)
    create_outbox(plain)
    engine = create_async_engine(postgres_database)
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, topic_name, order(1), "a")
    await engine.dispose()
    assert waiting(plain) == 1
    plain.dispose()


def test_creating_twice_is_fine_and_missing_lanes_are_made(url: str, engine: Engine, make_relay: MakeRelay) -> None:
    create_outbox(engine)
    with Session(engine) as session, session.begin():
        session.execute(delete(OutboxLane).where(OutboxLane.lane > 2))
    create_outbox(engine)
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(OutboxLane)) == 16


# Relaying


def test_events_of_a_key_go_out_in_order_over_many_batches(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, bootstrap: str, topic: str
) -> None:
    for start in range(0, 1000, 100):
        with Session(engine) as session, session.begin():
            for number in range(start, start + 100):
                outbox.add(session, topic, order(number), f"k-{number % 7}", id=str(number))
    assert relay_all(make_relay(batch=64)) == 1000
    records = read_all(bootstrap, topic)
    assert len(records) == 1000
    assert numbers(records) == {f"k-{k}".encode(): list(range(k, 1000, 7)) for k in range(7)}


def test_several_relays_share_the_work_and_keep_the_order(
    postgres_database: str, outbox: Outbox, bootstrap: str, topic: str
) -> None:
    engine = create_engine(postgres_database)
    create_outbox(engine)
    relays = [Relay(RelaySettings(postgres_database, batch=20), settings_for(bootstrap)) for _ in range(3)]
    dealt_with: dict[Relay, int] = dict.fromkeys(relays, 0)
    for relay in relays:
        _count_into(dealt_with, relay)
    with running(*relays):
        for number in range(1500):
            with Session(engine) as session, session.begin():
                outbox.add(session, topic, order(number), f"k-{number % 20}", id=str(number))
        eventually(lambda: waiting(engine) == 0)
    records = read_all(bootstrap, topic)
    assert len(records) == 1500
    assert numbers(records) == {f"k-{k}".encode(): list(range(k, 1500, 20)) for k in range(20)}
    assert sum(dealt_with.values()) == 1500
    assert sum(count > 0 for count in dealt_with.values()) > 1, dealt_with
    for relay in relays:
        relay.close()
    engine.dispose()


def _count_into(dealt_with: dict[Relay, int], relay: Relay) -> None:
    once = relay.relay_once

    def counted() -> int:
        count = once()
        dealt_with[relay] += count
        return count

    relay.relay_once = counted  # type: ignore[method-assign]  # to see who did the work


def test_a_turn_reads_its_batch_and_not_all_that_waits(postgres_database: str) -> None:
    engine = create_engine(postgres_database)
    create_outbox(engine)
    batches = Batches(engine, size=100, keep=False)
    counted = text("SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'outbox'")

    def turn() -> tuple[int, int]:
        """How many rows a batch has, and how many PostgreSQL read for it."""
        with batches.take() as rows:
            read = batches.connection.scalar(counted)
            batches.settle([row.seq for row in rows], {})
            batches.connection.execute(text("SELECT pg_stat_force_next_flush()"))  # so that each turn counts from zero
            return len(rows), read

    with engine.begin() as connection:
        connection.execute(text("ANALYZE outbox"))  # the planner knows it as empty, as after every night
        some = {"id": "", "aggregatetype": "t", "type": "t", "headers": {}}
        connection.execute(insert(OutboxEvent), [some | {"lane": number % LANES} for number in range(20_000)])
    turns = [turn() for _ in range(5)]
    engine.dispose()

    assert all(rows >= 96 for rows, _ in turns), turns
    assert all(read <= rows + LANES for rows, read in turns), turns


def test_a_commit_wakes_the_relay_at_once(postgres_database: str, outbox: Outbox, bootstrap: str, topic: str) -> None:
    engine = create_engine(postgres_database)
    create_outbox(engine)
    relay = Relay(RelaySettings(postgres_database, poll=60), settings_for(bootstrap))
    with running(relay):
        eventually(lambda: relay.trouble is None)  # it has looked, found nothing, and waits for a minute
        with Session(engine) as session, session.begin():
            outbox.add(session, topic, order(1), "a")
        eventually(lambda: waiting(engine) == 0, seconds=10)
    relay.close()
    engine.dispose()


def test_without_notifications_the_relay_looks_now_and_then(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, topic: str
) -> None:
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER headwater_outbox_notify ON outbox"))
    with running(make_relay(poll=0.1)):
        with Session(engine) as session, session.begin():
            outbox.add(session, topic, order(1), "a")
        eventually(lambda: waiting(engine) == 0, seconds=10)


def test_sent_events_are_kept_as_long_as_asked(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, topic: str
) -> None:
    with Session(engine) as session, session.begin():
        outbox.add(session, topic, order(1), "a", id="kept")
        outbox.add(session, topic, order(2), "a", id="old")
    assert relay_all(make_relay(keep=3600)) == 2
    with Session(engine) as session, session.begin():
        session.execute(
            update(OutboxEvent).where(OutboxEvent.id == "old").values(sent_at=datetime.now(UTC) - timedelta(hours=2))
        )
    with running(make_relay(keep=3600, poll=0.1)), Session(engine) as session:
        eventually(lambda: list(session.scalars(select(OutboxEvent.id))) == ["kept"])


def test_an_event_that_the_broker_refuses_is_parked_and_its_key_goes_on(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, bootstrap: str, topic_name: str
) -> None:
    create_topic(bootstrap, topic_name, max_message_bytes="2000")
    with Session(engine) as session, session.begin():
        outbox.add(session, topic_name, order(1, note="".join(map(str, range(2000)))), "a", id="1")
    relay = make_relay()
    assert relay_all(relay) == 1
    with Session(engine) as session, session.begin():
        outbox.add(session, topic_name, order(2), "a", id="2")
    assert relay_all(relay) == 1

    with Session(engine) as session, session.begin():
        [parked] = session.scalars(select(OutboxEvent))
        assert (parked.id, parked.sent_at) == ("1", None)
        assert "Message size too large" in str(parked.error)
        parked.error = None
    assert numbers(read_all(bootstrap, topic_name)) == {b"a": [2]}
    assert REGISTRY.get_sample_value("headwater_outbox_parked_total", {"topic": topic_name}) == 1

    def sent() -> bool:
        """The broker answers before it knows its new limit; an event that was too quick is parked anew."""
        relay_all(relay)
        with Session(engine) as session, session.begin():
            session.execute(update(OutboxEvent).values(error=None))
        return waiting(engine) == 0

    alter_topic(bootstrap, topic_name, max_message_bytes="100000")
    eventually(sent)
    assert numbers(read_all(bootstrap, topic_name)) == {b"a": [2, 1]}


def test_metrics_show_what_waits_and_how_long_it_took(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, topic: str
) -> None:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"headwater_outbox_{name}", labels) or 0.0

    with Session(engine) as session, session.begin():
        for number in range(50):
            outbox.add(session, topic, order(number), "a")
    relay = make_relay()
    relay._look()
    assert sample("pending") == 50
    assert 0 < sample("oldest_seconds") < 60
    relay_all(relay)
    assert sample("relay_seconds_count", topic=topic) == 50
    relay._looked = 0.0
    relay._look()
    assert (sample("pending"), sample("oldest_seconds")) == (0, 0)


# Faults


def test_while_the_broker_is_away_events_wait_in_the_outbox(
    engine: Engine, outbox: Outbox, make_relay: MakeRelay, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater_producers.outbox.relay._PATIENCE_SECONDS", 0.5)
    with Session(engine) as session, session.begin():
        outbox.add(session, topic_name, order(1), "a")
    with pytest.raises(BrokerUnavailable, match="1 events of the outbox"):
        make_relay(NOWHERE).relay_once()
    assert waiting(engine) == 1


def test_a_relay_waits_for_a_database_that_is_away(bootstrap: str, tmp_path: Path) -> None:
    relay = Relay(RelaySettings("postgresql+psycopg://nobody@127.0.0.1:1/nothing"), settings_for(bootstrap))
    with pytest.raises(OutboxUnavailable, match="does not answer"):
        relay.relay_once()
    with running(relay):
        eventually(lambda: "does not answer" in str(relay.trouble))
    relay.close()


def test_a_database_without_an_outbox_says_so(url: str, bootstrap: str) -> None:
    relay = Relay(RelaySettings(url), settings_for(bootstrap))
    with pytest.raises(UsageError, match="create_outbox"):
        relay.relay_once()
    relay.close()


@pytest.mark.parametrize("url", ["nonsense", "mongo://host/db"])
def test_a_url_that_cannot_be_used_says_what_to_pass(url: str) -> None:
    with pytest.raises(SettingError, match=r"postgresql\+psycopg://"):
        Relay(RelaySettings(url), settings_for(NOWHERE))


def test_settings_are_checked() -> None:
    values = {"HEADWATER_OUTBOX_URL": "sqlite://", "HEADWATER_OUTBOX_BATCH": "0"}
    with pytest.raises(SettingError, match="HEADWATER_OUTBOX_BATCH"):
        RelaySettings.from_env(Environment(values))
    with pytest.raises(SettingError, match="HEADWATER_OUTBOX_URL is not set"):
        RelaySettings.from_env(Environment({}))


RELAY = """
import sys, threading
from headwater_producers.outbox import Relay, RelaySettings
from producers.orders import settings_for
Relay(RelaySettings(sys.argv[1], batch=50), settings_for(sys.argv[2])).run(threading.Event())
"""


def start_relay(url: str, bootstrap: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen([sys.executable, "-c", RELAY, url, bootstrap], env=environment, stderr=subprocess.DEVNULL)


def test_nothing_is_lost_or_out_of_order_when_relays_and_the_broker_are_killed(
    postgres_database: str, outbox: Outbox, broker: Broker, topic: str
) -> None:
    """Two relays; one at a time is killed with SIGKILL, and the broker once; transactions go on all the while."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    engine = create_engine(postgres_database)
    create_outbox(engine)
    relays = [start_relay(postgres_database, broker.bootstrap) for _ in range(2)]
    number = 0
    try:
        for turn in range(8):
            deadline = time.monotonic() + dice.uniform(0.3, 1.5)
            while time.monotonic() < deadline:
                with Session(engine) as session, session.begin():
                    for _ in range(dice.randrange(1, 20)):
                        outbox.add(session, topic, order(number), f"k-{number % 10}", id=str(number))
                        number += 1
            if turn == 4:
                broker.kill()
                broker.start()
            victim = dice.randrange(2)
            relays[victim].send_signal(signal.SIGKILL)
            relays[victim].wait()
            relays[victim] = start_relay(postgres_database, broker.bootstrap)
        eventually(lambda: waiting(engine) == 0, seconds=90)
    finally:
        for relay in relays:
            relay.kill()
            relay.wait()
        engine.dispose()
    records = read_all(broker.bootstrap, topic)
    assert numbers(records) == {f"k-{k}".encode(): list(range(k, number, 10)) for k in range(10)}
    print(f"{number} events, {len(records) - number} sent twice")


def test_the_tables_can_be_moved_into_the_services_own_metadata(engine: Engine) -> None:
    assert set(inspect(engine).get_table_names()) == {"outbox", "outbox_lane"}
