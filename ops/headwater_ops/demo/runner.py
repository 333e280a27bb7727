"""One run of the demo on servers that are up: prepare, replay, settle, judge."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from faust.types import TP
from prometheus_client import REGISTRY

from headwater_cache import RedisSettings
from headwater_cache.topology import sync_client
from headwater_ops.collector import calm
from headwater_ops.demo.backlog import Backlog
from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.entities import AIRLINE, AIRPORT, CONTRACTS, FLIGHT, PLANE, Entities
from headwater_ops.demo.figures import Figures, quantile
from headwater_ops.demo.oracle import Oracle
from headwater_ops.demo.poison import Poisoner
from headwater_ops.demo.sending import Sending, send_references
from headwater_ops.demo.stages import Stages
from headwater_ops.demo.topics import DELAYED, LEGS, SENT_TOPICS
from headwater_ops.demo.verdict import Verdict
from headwater_ops.demo.visibility import Visibility
from headwater_ops.demo.worker import DemoWorker, Metrics
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas import topics as admin
from headwater_schemas.clock import SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.errors import Unavailable, UsageError
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.wire import change_topic
from headwater_streams.transport.log import Log
from headwater_tasks import TaskClient

__all__ = ["Demo", "Result"]

_PATIENCE = 120.0
_TASK_TOPICS = ("tasks", "task.control", "task.changes")
_OWN_TOPICS = (*SENT_TOPICS, LEGS, DELAYED, *(change_topic(entity) for entity in CONTRACTS))
_TUNING = {
    "HEADWATER_WORKER_COMMIT_INTERVAL": "250ms",
    # Fewer and fuller requests leave the broker's share of the processor to the others; one carries one partition.
    "HEADWATER_WORKER_FETCH_MIN_BYTES": "262144",
    "HEADWATER_WORKER_FETCH_WAIT": "100ms",
    "HEADWATER_PRODUCER_LINGER": "100ms",
    "HEADWATER_WORKER_LINGER": "100ms",
    # Servers, worker and replay share a few cores here: a stall of a second says nothing about Redis.
    "HEADWATER_REDIS_TIMEOUT": "5s",
}


class Result:
    """What came out."""

    def __init__(self, figures: Figures, verdict: Verdict) -> None:
        self.figures = figures
        self.verdict = verdict


class Demo:
    """Use it as a context manager: leaving it stops the worker.

    Args:
        settings: the ``HEADWATER_*`` variables of the servers.
        folder: for the log of the worker.
        stages: where progress is shown.
    """

    def __init__(self, settings: Mapping[str, str], folder: Path, stages: Stages) -> None:
        self.settings = {**settings, **_TUNING}
        self._env = Environment(self.settings)
        self._kafka = KafkaSettings.from_env(self._env)
        self.stages = stages
        self._codec = Codec(demo_catalogue(), Registry.from_env(self._env))
        self._open = ExitStack()
        self._open.callback(self._codec.registry.close)
        self.worker = DemoWorker(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()
        self.worker.stop()

    def run(self, data: Dataset, *, rate: float | None = None) -> Result:
        """Replay ``data``, wait until everything is settled, and compare. Blocks.

        Raises:
            UsageError: the demo's topics hold records already.
            StackUnavailable: the worker ended; the message has the end of its log.
            Unavailable: a server does not answer, or the pipeline does not come to rest.
        """
        calm()  # the rows are here to stay
        started = time.monotonic()
        figures = Figures(flights=len(data.flights))
        verdict = Verdict()
        with self.stages.stage("prepare", "topics, worker and reference data"):
            self._create_topics()
            self.worker.start(self.settings)
            entities = Entities.from_env(self._env, self._codec, source="headwater-demo")
            self._open.callback(entities.close)
            producer = self._open.enter_context(
                EventProducer(
                    ProducerSettings.from_env(self._env), self._codec.catalogue, self._codec, source="headwater-demo"
                )
            )
            producer.prepare(*SENT_TOPICS)
            send_references(data, producer, entities)
            poisoner = Poisoner(self._codec.catalogue, self._codec.registry)
            self.worker.await_ready(_PATIENCE)
            self._await_views(entities)
        sending = self._replay(data, producer, poisoner, entities, rate, figures)
        self._judge(Oracle(data), sending, entities, verdict, figures)
        figures.total_seconds = time.monotonic() - started
        figures.seconds_by_stage = dict(self.stages.seconds)
        return Result(figures, verdict)

    def _create_topics(self) -> None:
        log = Log(self._kafka)
        existing = log.topics()
        partitions = [TP(name, number) for name in _OWN_TOPICS for number in range(existing.get(name, 0))]
        used = sorted({tp.topic for tp, end in log.ends(partitions).items() if end})
        if used:
            raise UsageError(
                f"{', '.join(used)} hold records already, and the demo's figures would count them too: "
                "run it on servers of its own, as `headwater demo` does"
            )
        client = admin.admin_client(self._kafka)
        wanted = [self._codec.catalogue.topic(name) for name in (*_OWN_TOPICS, *_TASK_TOPICS)]
        admin.apply(admin.plan(wanted, client), client)

    def _await_views(self, entities: Entities) -> None:
        """Until every view has caught up with its log, so that a miss means not found."""
        deadline = time.monotonic() + _PATIENCE
        backlog = Backlog(self._kafka)
        self._open.callback(backlog.close)
        self._backlog = backlog
        backlog.await_empty([change_topic(entity) for entity in (PLANE, AIRPORT, AIRLINE)], self.watch, _PATIENCE)
        for entity in CONTRACTS:
            while not _ready(entities, entity):
                self.watch()
                if time.monotonic() > deadline:
                    raise Unavailable(f"the view of {entity} has not caught up after {_PATIENCE:.0f} s")
                time.sleep(0.1)

    def _replay(
        self,
        data: Dataset,
        producer: EventProducer,
        poisoner: Poisoner,
        entities: Entities,
        rate: float | None,
        figures: Figures,
    ) -> Sending:
        every = 50 if len(data.flights) < 50_000 else 400
        visibility = Visibility(entities.view(FLIGHT).get_many, SystemClock(), every=every)
        sending = Sending(data, producer, poisoner, visibility, rate=rate)
        shown = 0.0
        with self.stages.stage("replay", "replaying flights") as stage:

            def watch() -> None:
                nonlocal shown
                now = time.monotonic()
                if now - shown > 0.25:
                    shown = now
                    recent = quantile(visibility.seconds[-200:], 0.5) or 0.0
                    note = f"{sending.per_second:,.0f} events/s, visible after {recent * 1000:.0f} ms"
                    stage.update(sending.sent, sending.total, note)
                    self.watch()

            sending.run(watch)
            while visibility.waiting:
                visibility.look()
                watch()
                time.sleep(0.005)
        with self.stages.stage("settle", "settling what is left"):
            topics = [*_OWN_TOPICS, *_TASK_TOPICS]
            self._backlog.await_empty(topics, self.watch, _PATIENCE)
        figures.events_sent = sending.sent
        figures.replay_seconds = self.stages.seconds["replay"]
        figures.events_per_second = sending.sent / (figures.replay_seconds + self.stages.seconds["settle"])
        figures.visible_samples = len(visibility.seconds)
        figures.emit_to_visible_p50_ms = _milliseconds(quantile(visibility.seconds, 0.5))
        figures.emit_to_visible_p99_ms = _milliseconds(quantile(visibility.seconds, 0.99))
        return sending

    def _judge(self, oracle: Oracle, sending: Sending, entities: Entities, verdict: Verdict, figures: Figures) -> None:
        with self.stages.stage("check", "checking every flight and airport against the CSV") as stage:
            metrics = self.worker.metrics()
            settled = "headwater_events_settled_total"
            figures.events_settled = sum(metrics.total(settled, topic=topic, outcome="done") for topic in SENT_TOPICS)
            figures.retried = metrics.total(settled, outcome="retry")
            verdict.equal("records", "sent", "settled", sending.sent, figures.events_settled)
            figures.dead_letters = verdict.dead_letters(sending.planted, self._kafka)
            with TaskClient.from_env(self._env, source="headwater-demo") as client:
                figures.tasks = verdict.tasks(oracle, client)
            verdict.boards(oracle, entities)
            verdict.flights(oracle, entities)
            figures.cache_entries = self._keys_in_redis()
            figures.cache_hits = _reads(metrics, "hit")
            figures.cache_misses = _reads(metrics, "miss")
            figures.oracle_checks = verdict.checks
            figures.oracle_differences = verdict.count
            stage.note(f"{verdict.checks:,} facts, {verdict.count:,} differences")

    def _keys_in_redis(self) -> int:
        with sync_client(RedisSettings.from_env(self._env)) as client:
            return int(client.dbsize())

    def watch(self) -> None:
        """Called several times a second while the run waits for anything.

        Raises:
            StackUnavailable: the worker has ended; the message has the end of its log.
        """
        self.worker.check()


def _ready(entities: Entities, entity: str) -> bool:
    try:
        entities.view(entity).get("?")
    except Unavailable:
        return False
    return True


def _reads(metrics: Metrics, result: str) -> int:
    """Of the worker and of this process."""
    name = "headwater_cache_requests_total"
    own = sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and sample.labels["result"] == result
    )
    return metrics.total(name, result=result) + round(own)


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else value * 1000
