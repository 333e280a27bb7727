"""Lag of real groups on real brokers, read by the command and by the collector."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP
from prometheus_client import CollectorRegistry

from headwater_ops import cli
from headwater_ops.lag import GroupLag, LagCollector, PartitionLag, Status, read_lag
from headwater_schemas import wire
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import BrokerUnavailable, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_streams.transport.log import Log

HOUR = 3_600.0


class Group:
    """A topic and a group whose commits a test makes by hand."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        self.topic = topic
        self.group = group
        self.bootstrap = bootstrap
        self.log = Log(KafkaSettings(bootstrap))
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.create(topic)

    def create(self, topic: str, **config: str) -> None:
        for created in self.admin.create_topics([NewTopic(topic, 1, 1, config=config)]).values():
            created.result()

    def write(self, count: int, *, at: float | None = None, topic: str | None = None, due: float | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        stamp = 0 if at is None else int(at * 1000)
        headers: Any = None if due is None else [(wire.HW_DUE_AT, f"{due:.3f}".encode())]
        for _ in range(count):
            producer.produce(topic or self.topic, b"v", timestamp=stamp, headers=headers)
        assert producer.flush(30) == 0

    def commit(self, offset: int, topic: str | None = None) -> None:
        wanted = ConsumerGroupTopicPartitions(self.group, [TopicPartition(topic or self.topic, 0, offset)])
        self.admin.alter_consumer_group_offsets([wanted])[self.group].result()

    def lag(self) -> GroupLag:
        (group,) = read_lag(self.log, [self.group])
        return group

    def await_coordinator(self) -> None:
        """A broker that has just started does not list groups yet."""
        deadline = time.monotonic() + 30
        while True:
            try:
                read_lag(self.log, None)
                return
            except BrokerUnavailable:
                assert time.monotonic() < deadline, "the brokers do not list groups"
                time.sleep(0.1)

    def of(self, topic: str | None = None) -> PartitionLag:
        return next(lag for lag in self.lag().partitions if lag.topic == (topic or self.topic))


@pytest.fixture
def group(bootstrap: str, topic_name: str, unique: Callable[[str], str]) -> Group:
    made = Group(bootstrap, topic_name, unique("readers"))
    made.await_coordinator()
    return made


def test_lag_is_the_records_behind_the_commit_and_the_age_of_the_first_of_them(group: Group) -> None:
    now = time.time()
    group.write(3, at=now - 2 * HOUR)
    group.write(2, at=now - HOUR)
    group.commit(3)

    lag = group.of()

    assert (lag.committed, lag.start, lag.end, lag.records, lag.kind) == (3, 0, 5, 2, "backlog")
    assert lag.seconds == pytest.approx(HOUR, abs=60)


def test_without_lag_both_figures_are_zero(group: Group) -> None:
    group.write(2, at=time.time() - HOUR)
    group.commit(2)

    assert (group.of().records, group.of().seconds) == (0, 0.0)


def test_a_commit_beyond_the_end_is_no_negative_lag(group: Group) -> None:
    group.write(2)
    group.commit(7)

    assert (group.of().records, group.of().seconds) == (0, 0.0)


def test_a_record_of_the_future_is_no_negative_age(group: Group) -> None:
    group.write(1, at=time.time() + HOUR)
    group.commit(0)

    assert (group.of().records, group.of().seconds) == (1, 0.0)


def test_a_transaction_marker_alone_is_no_lag(group: Group, unique: Callable[[str], str]) -> None:
    producer = Producer({"bootstrap.servers": group.bootstrap, "transactional.id": unique("writer")})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(group.topic, b"v")
    producer.commit_transaction(30)
    group.commit(1)
    deadline = time.monotonic() + 30
    while group.of().end < 2:  # the commit stands before its markers do
        assert time.monotonic() < deadline, "the marker was not written"
        time.sleep(0.01)

    assert (group.of().records, group.of().seconds) == (0, 0.0)


def test_records_in_retry_tiers_and_parking_logs_are_told_apart_from_the_backlog(group: Group) -> None:
    tier = f"{group.topic}.{group.group}.retry.1m"
    parked = f"{group.topic}.{group.group}.retry.parked"
    for topic in (tier, parked):
        group.create(topic)
    now = time.time()
    group.write(1, at=now - HOUR)
    group.write(2, at=now - HOUR, topic=tier, due=now - 30)
    group.write(3, at=now - HOUR, topic=parked)
    for topic in (group.topic, tier, parked):
        group.commit(0, topic)

    lag = group.lag()

    assert [lag.total(kind) for kind in ("backlog", "retry", "parked")] == [1, 2, 3]
    assert group.of(tier).seconds == pytest.approx(30, abs=20)  # overdue, not old
    assert group.of(parked).seconds == pytest.approx(HOUR, abs=60)


def test_a_retry_that_is_not_due_is_not_overdue(group: Group) -> None:
    tier = f"{group.topic}.{group.group}.retry.1h"
    group.create(tier)
    group.write(1, topic=tier, due=time.time() + HOUR)
    group.commit(0, tier)

    assert (group.of(tier).records, group.of(tier).seconds) == (1, 0.0)


def test_records_that_were_deleted_unread_are_expired_and_no_lag(group: Group) -> None:
    group.write(10)
    group.commit(2)
    group.admin.delete_records([TopicPartition(group.topic, 0, 6)])[TopicPartition(group.topic, 0, 6)].result()

    lag = group.of()

    assert (lag.start, lag.expired, lag.records) == (6, 4, 4)


def test_a_group_that_never_committed_has_no_figures(group: Group) -> None:
    consumer = Consumer({"bootstrap.servers": group.bootstrap, "group.id": group.group, "enable.auto.commit": False})
    consumer.subscribe([group.topic])
    try:
        deadline = time.monotonic() + 30
        while not consumer.assignment() and time.monotonic() < deadline:
            consumer.poll(0.1)
        lag = group.lag()
    finally:
        consumer.close()

    assert (lag.partitions, lag.members, lag.state) == ((), 1, "stable")


def test_an_unknown_group_names_the_nearest_one(group: Group) -> None:
    group.write(1)
    group.commit(0)

    with pytest.raises(UsageError, match=f"did you mean {group.group}"):
        read_lag(group.log, [group.group + "x"])


def test_the_command_prints_the_same_as_json(
    group: Group, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group.write(3)
    group.commit(1)
    monkeypatch.setenv("HEADWATER_KAFKA_BOOTSTRAP", group.bootstrap)

    for arguments in (("lag", group.group, "--json"), ("lag", group.group)):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            (printed,) = json.loads(out)
            assert printed["group"] == group.group
            assert [(row["topic"], row["records"]) for row in printed["partitions"]] == [(group.topic, 2)]
        else:
            assert f"{group.group}: empty, 0 members, 2 records behind" in out


# -- the collector ----------------------------------------------------------------------------------------------------


class Watch:
    """A collector that looks only at what the test commits, and reads its metrics."""

    def __init__(self, group: Group, looks: int = 3, groups: Sequence[str] = ("*",)) -> None:
        self.group = group
        self.clock = ManualClock(time.time())
        self.collector = LagCollector(group.log, groups=groups, looks=looks, clock=self.clock)
        self.registry = CollectorRegistry()
        self.registry.register(self.collector)

    def sample(self, name: str, topic: str | None = None, **labels: str) -> float | None:
        mine = {"group": self.group.group, "topic": topic or self.group.topic, "partition": "0"}
        return self.registry.get_sample_value(f"headwater_{name}", mine | labels)


def test_the_collector_shows_what_it_saw(group: Group) -> None:
    watch = Watch(group)
    group.write(3, at=watch.clock.time() - HOUR)
    group.commit(1)
    watch.collector.look()

    assert watch.sample("consumer_lag_records") == 2
    assert watch.sample("consumer_lag_seconds") == pytest.approx(HOUR, abs=1)
    assert watch.sample("consumer_committed_offset") == 1
    assert watch.sample("consumer_group_status") == Status.OK
    assert watch.sample("consumer_records_expired_total") == 0
    topic = {"topic": group.topic, "partition": "0"}
    assert watch.registry.get_sample_value("headwater_topic_end_offset", topic) == 3
    assert watch.registry.get_sample_value("headwater_topic_start_offset", topic) == 0
    members = watch.registry.get_sample_value("headwater_consumer_group_members", {"group": group.group})
    assert members == 0
    state = {"group": group.group, "state": "empty"}
    assert watch.registry.get_sample_value("headwater_consumer_group_state", state) == 1
    success = watch.registry.get_sample_value("headwater_lag_collector_last_success_timestamp_seconds", {})
    assert success == watch.clock.time()


def test_waiting_records_are_in_metrics_of_their_own(group: Group) -> None:
    tier = f"{group.topic}.{group.group}.retry.1m"
    group.create(tier)
    watch = Watch(group)
    group.write(2, topic=tier, due=watch.clock.time() - 30)
    group.commit(0, tier)
    watch.collector.look()

    assert watch.sample("consumer_lag_records", tier) is None
    assert watch.sample("consumer_group_status", tier) is None
    assert watch.sample("records_parked", tier, kind="retry") == 2
    assert watch.sample("retry_overdue_seconds", tier) == pytest.approx(30, abs=0.01)


def test_a_group_that_nobody_works_for_is_stopped_and_a_reset_one_rewound(group: Group) -> None:
    watch = Watch(group, looks=3)
    group.write(3)
    group.commit(1)
    for _ in range(3):
        watch.collector.look()
    stopped = watch.sample("consumer_group_status")
    group.commit(0)
    watch.collector.look()

    assert stopped == Status.STOP
    assert watch.sample("consumer_group_status") == Status.REWIND


def test_a_deleted_record_is_counted_once(group: Group) -> None:
    watch = Watch(group)
    group.write(10)
    group.commit(2)
    counts = []
    for start in (0, 5, 5, 8):
        if start:
            position = TopicPartition(group.topic, 0, start)
            group.admin.delete_records([position])[position].result()
        watch.collector.look()
        counts.append(watch.sample("consumer_records_expired_total"))

    assert counts == [0, 3, 3, 6]


def test_the_series_of_a_group_that_is_gone_are_gone(group: Group) -> None:
    watch = Watch(group)
    group.write(1)
    group.commit(0)
    watch.collector.look()
    before = watch.sample("consumer_lag_records")
    group.admin.delete_consumer_groups([group.group])[group.group].result()
    watch.collector.look()

    assert before == 1
    assert watch.sample("consumer_lag_records") is None
    assert watch.registry.get_sample_value("headwater_consumer_group_members", {"group": group.group}) is None


def test_only_groups_that_fit_a_pattern_are_looked_at(group: Group, unique: Callable[[str], str]) -> None:
    group.write(1)
    group.commit(0)
    others, pattern = unique("console-consumer"), f"{group.group[:-3]}*"
    group.admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(others, [TopicPartition(group.topic, 0, 0)])]
    )[others].result()
    seen = {}
    for patterns in ((pattern,), ("nothing-like-it", pattern), (group.group,), ("*",), ("nothing-like-it",)):
        watch = Watch(group, groups=patterns)
        watch.collector.look()
        ours = watch.sample("consumer_lag_records")
        theirs = watch.registry.get_sample_value("headwater_consumer_group_members", {"group": others})
        seen[patterns] = (ours is not None, theirs is not None)

    assert seen == {
        (pattern,): (True, False),
        ("nothing-like-it", pattern): (True, False),
        (group.group,): (True, False),
        ("*",): (True, True),
        ("nothing-like-it",): (False, False),
    }


def test_a_collector_that_the_brokers_never_answered_says_so(group: Group) -> None:
    """A series that is not there would raise no alert."""
    watch = Watch(group)

    assert watch.registry.get_sample_value("headwater_lag_collector_last_success_timestamp_seconds", {}) == 0


class _Away(Log):
    """Brokers that stop answering."""

    away = False

    def topics(self) -> dict[str, int]:
        if self.away:
            raise BrokerUnavailable("no answer")
        return super().topics()


def test_a_failed_look_is_counted_and_the_last_figures_stay(group: Group) -> None:
    group.log = _Away(KafkaSettings(group.bootstrap))
    watch = Watch(group)
    group.write(1)
    group.commit(0)
    watch.collector.look()
    seen_at = watch.clock.time()
    group.log.away = True
    watch.clock.advance(60)
    watch.collector.look()

    assert watch.registry.get_sample_value("headwater_lag_collector_errors_total", {}) == 1
    assert watch.sample("consumer_lag_records") == 1
    success = watch.registry.get_sample_value("headwater_lag_collector_last_success_timestamp_seconds", {})
    assert success == seen_at


def test_the_first_record_of_a_span_is_found_across_deleted_ones(group: Group) -> None:
    group.write(5)
    position = TopicPartition(group.topic, 0, 3)
    group.admin.delete_records([position])[position].result()
    tp = TP(group.topic, 0)

    first = group.log.first({tp: (0, 5)})

    assert first[tp].offset() == 3
    assert group.log.first({tp: (5, 5)}) == {}
