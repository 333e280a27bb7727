"""The app: a ``faust.App`` with handlers.

    app = StreamApp("billing")

    @app.handler("orders.placed", retry=Retry("1s", "10s", "1m"))
    async def charge(order: OrderPlaced, event: EventContext) -> None: ...

Agents, tables, timers and ``faust -A … worker`` work as in any Faust app; ``headwater worker MODULE:APP`` runs it with
uvloop and the health endpoints.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import faust
from faust.types import TP
from prometheus_client import REGISTRY

from headwater_producers.envelope import Envelope
from headwater_schemas.admin import Admin
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.durations import Duration
from headwater_schemas.errors import UnknownTopic, UsageError
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, RegistrySettings
from headwater_schemas.topics import topic_config
from headwater_schemas.wire import CE_TYPE, TRACEPARENT
from headwater_streams.handlers.agent import BatchChannel, agent_body
from headwater_streams.handlers.batch import BatchRunner, Rewind
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.dependency import Breaker
from headwater_streams.handlers.emitter import Outlet, Prepare
from headwater_streams.handlers.failure import header
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import reading_fences
from headwater_streams.handlers.limits import DeadLimit
from headwater_streams.handlers.message import Headers
from headwater_streams.handlers.orphans import NOBODY, Orphans
from headwater_streams.handlers.policy import Retry
from headwater_streams.handlers.pool import HandlerPool
from headwater_streams.handlers.runner import Runner
from headwater_streams.handlers.settler import PartitionControl
from headwater_streams.handlers.spec import BeforeDead, HandlerSpec, OnDead
from headwater_streams.loopwatch import LoopWatch
from headwater_streams.metrics import HandlerMetrics, WorkerMetrics
from headwater_streams.tables import TableManager
from headwater_streams.transport.consumer import Consumer
from headwater_streams.transport.producer import Producer
from headwater_streams.transport.topics import TopicRequest, create_topics, tombstone_seconds, topic_partitions
from headwater_streams.transport.transactions import TransactionalSender, Transactions
from headwater_streams.transport.waiting import until_available

__all__ = ["StreamApp"]

F = TypeVar("F", bound=Callable[..., Any])
Processing = Literal["at-least-once", "transactional"]

DEAD_LIMIT = DeadLimit()


class StreamApp(faust.App):
    """A Faust app whose handlers settle every record of their topics, in order per key, at least once.

    Args:
        id: the consumer group, and the prefix of what the app creates.
        env: the ``HEADWATER_*`` settings; ``None`` reads the process's environment when the app starts.
        catalogue: the topics and schemas; ``None`` loads those of the settings.
        codec: how values are read and written; ``None`` makes one on the registry of the settings.
        clock: stamps retries; only tests pass another than the system's.
        processing: ``"transactional"`` puts what handlers emit, retries, dead letters and offsets in one Kafka
            transaction per commit interval: from log to log each record counts exactly once for readers with
            ``isolation.level=read_committed``. What handlers do elsewhere (databases, Redis, HTTP) is repeated after a
            crash or an abort as always, and so is what Faust's agents do. Emitted events and retries become readable
            at the next commit.
        faust_settings: further settings of ``faust.App`` (``store``, ``web_port``, …).

    Raises:
        SettingError: a setting is unknown or malformed.
        UsageError: ``processing`` is neither.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - Faust's name for it
        *,
        env: Environment | None = None,
        catalogue: Catalogue | None = None,
        codec: Codec | None = None,
        clock: Clock | None = None,
        processing: Processing = "at-least-once",
        faust_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.env = env or Environment()
        bootstrap = self.env.text("HEADWATER_KAFKA_BOOTSTRAP").split(",")
        host, _, port = self.env.text("HEADWATER_WORKER_HTTP").rpartition(":")
        defaults: dict[str, Any] = {
            "broker": ";".join(f"headwater://{address.strip()}" for address in bootstrap),
            "broker_commit_interval": self.env.duration("HEADWATER_WORKER_COMMIT_INTERVAL"),
            "producer_linger": self.env.duration("HEADWATER_WORKER_LINGER"),
            # A static member keeps its partitions for so long while it restarts; of others only a dead one is awaited.
            "broker_session_timeout": 45.0 if self.env.get("HEADWATER_WORKER_ID") else 10.0,
            "broker_heartbeat_interval": 1.0,
            "broker_max_poll_interval": 300.0,
            "consumer_auto_offset_reset": "earliest",
            "topic_disable_leader": True,
            "TableManager": TableManager,
            "web_tables_enabled": False,  # one worker would answer for tables of which it holds a part
            "web_router_enabled": False,
            "web_bind": host,
            "web_port": int(port) or 6066,  # Faust takes no port 0
            "store": "memory://",
            "datadir": str(Path(self.env.get("HEADWATER_STATE_DIR") or tempfile.gettempdir()) / "headwater-faust" / id),
        }
        if processing not in get_args(Processing):
            raise UsageError(f"processing={processing!r} must be one of {', '.join(get_args(Processing))}")
        self.processing = processing
        self.transactions: Transactions | None = None
        self._transactional: TransactionalSender | None = None
        self.specs: list[HandlerSpec] = []
        self._gone: list[Callable[[frozenset[TP]], None]] = []
        self.clock = clock or SystemClock()
        self.worker_metrics = WorkerMetrics(id)
        self.pool: HandlerPool | None = None
        self.breakers: dict[str, Breaker] = {}
        self.worker_metrics.breakers = self.breakers
        self.loop_watch = LoopWatch()
        self._catalogue = catalogue
        self._codec = codec
        self._channels: dict[tuple[str, str], BatchChannel] = {}
        self._runners: dict[tuple[str, str], Runner | BatchRunner] = {}
        super().__init__(id, **{**defaults, **(faust_settings or {})})

    @property
    def catalogue(self) -> Catalogue:
        """The topics and schemas this app knows."""
        if self._catalogue is None:
            self._catalogue = Catalogue.from_env(self.env)
        return self._catalogue

    @property
    def codec(self) -> Codec:
        """How values are read and written."""
        if self._codec is None:
            self._codec = Codec(self.catalogue, Registry(RegistrySettings.from_env(self.env)))
        return self._codec

    # -- declaring ------------------------------------------------------------------------------------------------

    def handler(
        self,
        *topics: str,
        name: str | None = None,
        retry: Retry | None = None,
        ordered: bool = True,
        concurrency: int = 100,
        timeout: Duration | None = None,
        max_waiting: int = 10_000,
        rate: str | None = None,
        depends_on: Mapping[str, tuple[type[BaseException], ...]] | None = None,
        dead_limit: DeadLimit | None = DEAD_LIMIT,
        on_dead: OnDead = "flow",
    ) -> Callable[[F], F]:
        """Declare a function that is called with each record of ``topics``.

        The function takes ``(value)`` or ``(value, event)``. A value annotated with a msgspec struct is made into one;
        otherwise it is a dict. Coroutine functions run on the loop, others in threads. Returning settles the record;
        raising does with it what ``retry`` says. A record may be handled more than once: make effects idempotent, by
        ``event.id``. ``None`` as value is a tombstone.

        Args:
            name: stands in headers and metrics; retries find their handler by it, so keep it when you rename the
                function. Default: the function's name.
            retry: default ``Retry("1s", "10s", "1m")``.
            ordered: keep the order of each key, also through retries and restarts. ``False`` is quicker when many
                records of few keys fail.
            concurrency: calls in flight at a time, per topic and worker.
            timeout: for one call. A synchronous function cannot be stopped: its overrun counts when it returns.
            max_waiting: records that may wait in memory behind busy keys before fetching stops.
            rate: calls per second, minute or hour of this process, e.g. ``"100/s"``.
            depends_on: what may be down, and the exceptions that tell of it: ``{"payments": (ConnectionError,)}``.
                Such a record waits and dies of nothing; see ``EventContext.dependency`` for single calls.
            dead_limit: stop the partition for a while when too many records die; ``None`` never does.
            on_dead: ``"hold"`` lets a key wait whose record became a dead letter, until that letter is redriven with
                success, edited, or released; later records of the key wait in the parking log. For keys of which no
                record may be skipped. Decide within the four weeks for which Kafka keeps it. More than 2,000 records
                behind held keys stop the parking log of their partition, for other keys too. What a broker refuses
                after the handler returned (``emit`` of too large an event) is a dead letter that holds nothing.

        Raises:
            UsageError: a signature or a number that cannot be.
        """
        return self._declare(
            topics,
            {
                "name": name,
                "retry": retry,
                "ordered": ordered,
                "concurrency": concurrency,
                "timeout": timeout,
                "max_waiting": max_waiting,
                "max_records": 1,
                "rate": rate,
                "depends_on": depends_on,
                "dead_limit": dead_limit,
                "batch": False,
                "on_dead": on_dead,
            },
        )

    def batch_handler(
        self,
        *topics: str,
        name: str | None = None,
        retry: Retry | None = None,
        max_records: int = 1000,
        concurrency: int = 8,
        timeout: Duration | None = None,
        max_waiting: int = 20_000,
        on_unreadable: BeforeDead | None = None,
        decode: Callable[[bytes | None], Any] | None = None,
    ) -> Callable[[F], F]:
        """Declare a function that is called with many records of one partition at a time, as a ``RecordBatch``.

        Returning settles all of them. A batch that raises is tried again in place after the delays of ``retry``; then
        its records are tried one by one and those that fail are dead letters. The partition waits meanwhile. Records
        that cannot be decoded never reach the function.

        Args:
            max_records: the most that one call gets; it gets what is there, without waiting for more.
            concurrency: partitions worked on at a time.
            on_unreadable: awaited with each record that cannot be decoded, or that fails alone, before it becomes a
                dead letter and before later records of its partition are handled. While it raises an ``Unavailable``
                the partition waits; any other error stops the worker, so nothing is skipped. May be called again.
            decode: reads a record's value, ``None`` of a tombstone, where the codec cannot: topics in another format.
                It must not block, and raises a ``BadRecord`` for what can never be read.

        Raises:
            UsageError: a signature or a number that cannot be.
        """
        return self._declare(
            topics,
            {
                "name": name,
                "retry": retry,
                "ordered": True,
                "concurrency": concurrency,
                "timeout": timeout,
                "max_waiting": max_waiting,
                "max_records": max_records,
                "before_dead": on_unreadable,
                "decode": decode,
                "rate": None,
                "depends_on": None,
                "dead_limit": None,
                "batch": True,
            },
        )

    def partitions_gone(self, function: Callable[[frozenset[TP]], None]) -> Callable[[frozenset[TP]], None]:
        """Decorator: call ``function`` with partitions of handled topics that are no longer this worker's.

        For handlers that keep state per partition: drop it there, since others go on from here. Called in the event
        loop, between the last record of those partitions and whatever comes if they return; also when a transaction
        was aborted and its records are read again. It must not block. Partitions that were never read are named too.
        """
        self._gone.append(function)
        return function

    def tell_gone(self, partitions: frozenset[TP]) -> None:
        """Call what ``partitions_gone`` registered."""
        for function in self._gone:
            function(partitions)

    def _declare(self, topics: tuple[str, ...], options: dict[str, Any]) -> Callable[[F], F]:
        def declare(function: F) -> F:
            if self.processing == "transactional" and getattr(function, "awaits_acknowledgements", False):
                raise UsageError(
                    "an @idempotent handler waits until what it emitted is acknowledged, and in a transaction nothing "
                    'is before it returns: leave @idempotent off, or processing="at-least-once"'
                )
            spec = HandlerSpec.of(function, topics, **options)
            if any(spec.name == other.name for other in self.specs):
                raise UsageError(f"two handlers are called {spec.name}: give one of them name='…'")
            self.specs.append(spec)
            for topic in topics:
                self._add_agent(spec, topic)
            return function

        return declare

    def _add_agent(self, spec: HandlerSpec, topic: str) -> None:
        key = (spec.name, topic)
        channel = self._channels[key] = BatchChannel(self)
        label = spec.name if len(spec.topics) == 1 else f"{spec.name}[{topic}]"
        self.agent(channel, name=label)(agent_body(channel, lambda: self._runners[key]))

    # -- starting -------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Create what the handlers' topics need besides themselves, and the runners."""
        await super().on_start()
        if not self.specs:
            return
        consumer = self.consumer
        if not isinstance(consumer, Consumer):
            raise UsageError("handlers need the headwater:// transport; leave the broker setting to StreamApp")
        families = await until_available(lambda: self._families(consumer))
        if self.processing == "transactional":
            await self._prepare_transactions(consumer)
        envelope = Envelope(self.conf.id, self.clock)
        for spec in self.specs:
            for topic in spec.topics:
                runner = self._runners[spec.name, topic] = self.new_runner(
                    spec,
                    families[topic],
                    codec=self.codec,
                    outlet=self._outlet(),
                    prepare=self.preparing(envelope, self.codec),
                    control=consumer.group,
                    clock=self.clock,
                    on_crash=self._crash_soon,
                    on_rewind=consumer.rewind,
                )
                self.worker_metrics.watch(runner)
        orphans = [
            self.new_orphans(
                family, outlet=self._outlet(), control=consumer.group, clock=self.clock, on_crash=self._crash_soon
            )
            for family in families.values()
        ]
        for one in orphans:
            self.worker_metrics.watch(one)
        fed = [(self._runners[key], channel) for key, channel in self._channels.items()]
        self.pool = consumer.pool = HandlerPool(
            consumer.group,
            [*fed, *((one, None) for one in orphans)],
            self.worker_metrics,
            self._crash_soon,
            reading_fences(consumer.transport.kafka),
            exact=self.processing == "transactional",
            on_gone=self.tell_gone,
        )
        if self._transactional is not None:
            self.transactions = consumer.handler_transactions = Transactions(
                self._transactional,
                consumer.group,
                self.pool,
                on_crash=self._crash_soon,
                on_aborted=consumer.dropped,
            )

    async def _prepare_transactions(self, consumer: Consumer) -> None:
        """One transactional producer for all handlers. A worker that keeps its id ends what its last life left open."""
        transport = consumer.transport
        worker = transport.member or uuid.uuid4().hex[:12]
        sender = TransactionalSender(
            transport.kafka,
            transactional_id=f"headwater.{self.conf.id}.{worker}",
            linger=self.env.duration("HEADWATER_WORKER_LINGER"),
        )
        sender.start()
        await until_available(sender.begin_first)
        self._transactional = sender

    async def _families(self, consumer: Consumer) -> dict[str, Family]:
        """The family of each handled topic, its topics created where they are missing.

        Raises:
            UnknownTopic: a handled topic does not exist on the brokers.
        """
        kafka = consumer.transport.kafka
        existing = await topic_partitions(kafka)
        delays: dict[str, set[float]] = {}
        for spec in self.specs:
            for topic in spec.topics:
                if topic not in existing:
                    raise UnknownTopic(
                        f"handler {spec.name}: no topic {topic}; run `headwater topics apply`, or grant "
                        "this user Describe and Read if the brokers have ACLs"
                    )
                delays.setdefault(topic, set()).update(() if spec.batch else spec.retry.delays)
        families = {topic: Family.of(topic, self.conf.id, wanted, existing) for topic, wanted in delays.items()}
        missing = {
            topic: [name for name in family.created if name not in existing] for topic, family in families.items()
        }
        limit = str(max(2 * kafka.max_record_bytes, 2_000_000))
        await create_topics(
            kafka,
            [
                TopicRequest(
                    name, existing[topic], spec.replication or -1, {**topic_config(spec), "max.message.bytes": limit}
                )
                for topic, names in missing.items()
                for spec in [self._kept_as(topic)]
                for name in names
            ],
        )
        return families

    def _kept_as(self, topic: str) -> TopicSpec:
        """How Kafka keeps what a family adds to its topic: tiers and parking log as long as the dead letters."""
        declared = next(
            (spec for spec in self.catalogue.topics() if spec.name == topic), TopicSpec(topic, schema="any")
        )
        return declared.dead_letter(self.conf.id)

    def new_runner(
        self,
        spec: HandlerSpec,
        family: Family,
        *,
        codec: Codec,
        outlet: Outlet,
        prepare: Prepare,
        control: PartitionControl,
        clock: Clock,
        on_crash: Callable[[BaseException], None],
        on_rewind: Callable[[Rewind], Awaitable[None]],
    ) -> Runner | BatchRunner:
        """The runner of one handler on one topic, on whatever log the arguments stand for."""
        known = any(declared.name == family.topic for declared in self.catalogue.topics())
        common: dict[str, Any] = {
            "decode": spec.decode or codec.decoder(family.topic if known else None, spec.value_type),
            "schemas": codec,
            "outlet": outlet,
            "prepare": prepare,
            "control": control,
            "clock": clock,
            "metrics": HandlerMetrics(spec.name, family.topic),
            "on_crash": on_crash,
        }
        if self._transactional is not None:
            common["admits"] = self._transactional.admits
        if spec.batch:
            return BatchRunner(spec, family, on_rewind=on_rewind, **common)
        return Runner(spec, family, breakers=self.breakers, **common)

    def new_orphans(
        self,
        family: Family,
        *,
        outlet: Outlet,
        control: PartitionControl,
        clock: Clock,
        on_crash: Callable[[BaseException], None],
    ) -> Orphans:
        """What settles the records of a family's retry topics that no handler of ours will run."""
        return Orphans(
            family,
            [spec.name for spec in self.specs if family.topic in spec.topics],
            outlet=outlet,
            control=control,
            clock=clock,
            metrics=HandlerMetrics(NOBODY, family.topic),
            on_crash=on_crash,
        )

    def _outlet(self) -> Outlet:
        if self._transactional is not None:
            return self._transactional
        producer = self.producer
        assert isinstance(producer, Producer)
        return producer.started_sender()

    @staticmethod
    def preparing(envelope: Envelope, codec: Codec) -> Prepare:
        """Encodes what a handler emits and makes its headers: a new id, our name, the trace of the record."""
        encoders: dict[str, Any] = {}

        def prepare(event: EventContext, topic: str, value: Any, extra: Headers | None) -> tuple[bytes | None, Headers]:
            encode = encoders.get(topic)
            if encode is None:
                encode = encoders[topic] = codec.encoder(topic)
            headers: Any = envelope.headers(envelope.new_id(next(envelope.numbers)), (CE_TYPE, topic))
            trace = header(event.message.headers(), TRACEPARENT)
            if trace is not None:
                headers.append((TRACEPARENT, trace))
            if extra:
                headers.extend(extra)
            return (None if value is None else encode(value)), headers

        return prepare

    def _crash_soon(self, error: BaseException) -> None:
        self.add_future(self.crash(error))

    def _create_directories(self) -> None:
        self.conf.datadir.parent.mkdir(parents=True, exist_ok=True)
        super()._create_directories()

    async def _stop_consumer(self) -> None:
        await super()._stop_consumer()
        if isinstance(self._consumer, Consumer):
            await self._consumer.leave()
        if self._transactional is not None:
            await self._transactional.close(timeout=10.0)

    async def caught_up(self, topic: str) -> dict[TP, int]:
        """Our partitions of a handled topic whose every record is settled, up to the end that the last fetch met, each
        with the offset behind the last one. Asks no broker."""
        consumer = self._consumer
        if self.pool is None or not isinstance(consumer, Consumer):
            return {}
        return {tp: at for tp, at in self.pool.settled(topic).items() if consumer.at_end(tp, at)}

    def ends(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """Where fetches last met the end of these partitions of ours; behind a transaction that is past its records."""
        consumer = self._consumer
        found = {tp: consumer.end(tp) for tp in partitions} if isinstance(consumer, Consumer) else {}
        return {tp: end for tp, end in found.items() if end is not None}

    async def tombstone_seconds(self, topic: str) -> float:
        """Seconds for which a compacted topic keeps a tombstone; Kafka's default if the brokers do not say."""
        consumer = self._consumer
        assert isinstance(consumer, Consumer), "start the app first"
        return await asyncio.to_thread(tombstone_seconds, Admin(consumer.transport.kafka), topic)

    async def rewind(self, rewind: Rewind) -> None:
        """Read partitions of handled topics again from further back, as if a batch handler had raised it."""
        if isinstance(self._consumer, Consumer):
            await self._consumer.rewind(rewind)

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 before the app has joined its group."""
        return self.consumer.topic_partitions(topic) or 0

    # -- watching -------------------------------------------------------------------------------------------------

    async def on_started(self) -> None:
        """Let Prometheus see the handlers."""
        REGISTRY.register(self.worker_metrics)
        self.loop_watch.start()
        await super().on_started()

    async def on_shutdown(self) -> None:
        """Forget the metrics; another app of the process may have its own."""
        self.loop_watch.stop()
        if self.worker_metrics in REGISTRY._collector_to_names:
            REGISTRY.unregister(self.worker_metrics)
        await super().on_shutdown()
