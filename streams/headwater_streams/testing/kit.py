"""The kit: an app's handlers on the memory broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from faust.types import TP

from headwater_producers.envelope import Envelope
from headwater_schemas.clock import ManualClock
from headwater_schemas.codec import Codec
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.wire import CE_TYPE
from headwater_streams.app import StreamApp
from headwater_streams.handlers.batch import Rewind
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.pool import HandlerPool
from headwater_streams.metrics import WorkerMetrics
from headwater_streams.testing.broker import MemoryBroker, MemoryMessage

__all__ = ["StreamKit"]

_ROUNDS = 10_000


class StreamKit:
    """Runs the handlers of ``app`` in memory. The app itself is not started and needs no servers.

    Args:
        partitions: of every topic.
        batch: records fetched at a time from one partition.
        broker: a log to go on with, for tests of restarts; see ``crash``.
    """

    def __init__(
        self,
        app: StreamApp,
        *,
        partitions: int = 1,
        batch: int = 500,
        clock: ManualClock | None = None,
        broker: MemoryBroker | None = None,
    ) -> None:
        self.app = app
        self.clock = clock or ManualClock()
        self.broker = broker or MemoryBroker(self.clock)
        self.crashes: list[BaseException] = []
        self._batch = batch
        self._partitions = partitions
        self.codec = Codec(app.catalogue, LocalRegistry())
        self._envelope = Envelope(app.conf.id, self.clock)
        self._pool: HandlerPool | None = None
        self._positions: dict[TP, int] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.crash()
        if error is None and self.crashes:
            raise self.crashes[0]

    async def start(self) -> None:
        """Take every partition, as a worker that joins an empty group."""
        for topic in self.app.catalogue.topics():
            self.broker.create(topic.name, self._partitions)
        families = self._families()
        runners = [
            (
                self.app.new_runner(
                    spec,
                    families[topic],
                    codec=self.codec,
                    outlet=self.broker,
                    prepare=self.app.preparing(self._envelope, self.codec),
                    control=self.broker,
                    clock=self.clock,
                    on_crash=self.crashes.append,
                    on_rewind=self._rewind,
                ),
                None,
            )
            for spec in self.app.specs
            for topic in spec.topics
        ]
        orphans = [
            self.app.new_orphans(
                family, outlet=self.broker, control=self.broker, clock=self.clock, on_crash=self.crashes.append
            )
            for family in families.values()
        ]
        fed = [*runners, *((one, None) for one in orphans)]
        self._pool = HandlerPool(
            self.broker,
            fed,
            WorkerMetrics(self.app.conf.id),
            self.crashes.append,
            self.broker.fences,
            on_gone=self.app.tell_gone,
        )
        self._pool.start()
        ours = {TP(topic, number) for topic in self._pool.topics for number in range(self._partitions)}
        self._positions = {tp: self.broker.offsets.get(tp, 0) for tp in ours}
        self.broker.paused.clear()
        self._pool.assigned(ours)

    def _families(self) -> dict[str, Family]:
        delays: dict[str, set[float]] = {}
        for spec in self.app.specs:
            for topic in spec.topics:
                delays.setdefault(topic, set()).update(() if spec.batch else spec.retry.delays)
        families = {topic: Family.of(topic, self.app.conf.id, wanted) for topic, wanted in delays.items()}
        for family in families.values():
            for name in (*family.consumed, *family.created):
                self.broker.create(name, self._partitions)
        return families

    # -- doing ----------------------------------------------------------------------------------------------------

    def send(self, topic: str, value: Mapping[str, Any] | None, *, key: str | None = None, headers: Any = None) -> None:
        """Append an event, encoded as a producer would.

        Raises:
            UnknownTopic, InvalidValue: as a producer would.
        """
        encoded = None if value is None else self.codec.encoder(topic)(value)
        own: Any = self._envelope.headers(self._envelope.new_id(next(self._envelope.numbers)), (CE_TYPE, topic))
        self.send_raw(topic, encoded, key=None if key is None else key.encode(), headers=[*own, *(headers or [])])

    def send_raw(self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Any = None) -> None:
        """Append a record as it is: for poison."""
        self.broker.send(topic, value, key, headers)

    async def settle(self) -> None:
        """Run until nothing more can: all fetched, nothing with a handler, only what is not due waits.

        Raises:
            UsageError: it does not come to rest; a handler waits for something that this kit does not bring about.
        """
        quiet = 0
        for _ in range(_ROUNDS):
            moved = await self._fetch()
            before = self._state()
            for _ in range(8):
                await asyncio.sleep(0)
            quiet = 0 if moved or self._state() != before or self._busy() else quiet + 1
            if quiet >= 3:
                return
        raise UsageError("the handlers do not come to rest: one waits for what the kit does not bring about")

    async def advance(self, duration: Duration) -> None:
        """Turn the clock, and run what has become due: retries, and what waits for a dependency or after a flood.

        Once: what fails again then waits anew. ``rate``, ``timeout`` and batch handlers keep to real time.
        """
        await self.settle()
        self.clock.advance(seconds(duration))
        self._ring()
        await self.settle()

    async def commit(self) -> None:
        """Commit what is settled."""
        assert self._pool is not None
        self._pool.commit()

    async def crash(self) -> None:
        """Lose everything that is in memory, as kill -9 does. ``start`` again to go on from what is committed."""
        if self._pool is not None:
            await self._pool.close()
            self._pool.drop()
            self._pool = None

    async def revoke(self, limit: Duration = 30.0) -> None:
        """Give every partition up, as in a rebalance: finish what runs within ``limit``, commit, forget. ``start``
        again, or another kit on the same broker, to go on."""
        assert self._pool is not None
        offsets, told = await self._pool.revoked(set(self._positions), seconds(limit))
        self.broker.commit_soon(offsets, told)
        await self.crash()

    # -- looking --------------------------------------------------------------------------------------------------

    def records(self, topic: str) -> list[MemoryMessage]:
        """Every record of a topic, as it stands on the log."""
        return self.broker.records(topic)

    def values(self, topic: str) -> list[Any]:
        """Every value of a topic, decoded."""
        decode = self.codec.decoder(topic)
        return [decode(message.value()) for message in self.records(topic)]

    def dead_letters(self, topic: str) -> list[MemoryMessage]:
        """The dead letters of a handled topic."""
        return self.broker.records(f"{topic}.{self.app.conf.id}.dlt")

    @property
    def committed(self) -> dict[TP, int]:
        """The group's offsets."""
        return dict(self.broker.offsets)

    # -- turning --------------------------------------------------------------------------------------------------

    async def _fetch(self) -> bool:
        assert self._pool is not None
        batches = []
        for tp in sorted(self._positions):
            if not self._pool.runs(tp):
                continue
            messages = self.broker.fetch(tp, self._positions[tp], self._batch)
            if messages:
                self._positions[tp] += len(messages)
                batches.append((tp, messages))
        if batches:
            await self._pool.take(batches)
        return bool(batches)

    def _state(self) -> object:
        sizes = tuple(len(log) for topic in self.broker.topics.values() for log in topic)
        return sizes, self._settled()

    def _settled(self) -> object:
        assert self._pool is not None
        return tuple(sorted(self._pool.committable().items()))

    def _busy(self) -> bool:
        assert self._pool is not None
        return any(runner.busy for runner in self._pool.runners)

    def _ring(self) -> None:
        assert self._pool is not None
        for runner in self._pool.runners:
            runner.ring()

    async def _rewind(self, rewind: Rewind) -> None:
        assert self._pool is not None
        self._positions.update(self._pool.rewind(rewind.positions))
