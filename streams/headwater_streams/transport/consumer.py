"""Faust's consumer interface on a group member of ours, and the one poll loop that feeds agents and handlers.

Records of handlers' topics go to the pool in batches, past Faust's per-message path. Records of agents' topics go
through Faust unchanged: conductor, streams, acks, tables. Faust knows only its agents' partitions: its stop-the-world
rebalance does not concern the handlers, which keep running through an incremental one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError
from faust.transport import consumer as faust_consumer
from faust.types import TP, ConsumerMessage
from mode import Seconds, Service

from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, UsageError
from headwater_schemas.partitioner import partition_for
from headwater_streams.handlers.batch import Rewind
from headwater_streams.handlers.message import Message
from headwater_streams.handlers.pool import HandlerPool
from headwater_streams.transport.errors import GroupClosed, translate
from headwater_streams.transport.group import GroupConsumer, Marks
from headwater_streams.transport.producer import topic_request
from headwater_streams.transport.topics import create_topics, topic_partitions
from headwater_streams.transport.transactions import Transactions
from headwater_streams.transport.waiting import until_available

__all__ = ["Consumer"]

Batches = list[tuple[TP, list[Message]]]

_FETCH_RECORDS = 2_000
# Seconds between two looks for partitions that the group wants back; twice is too long. A member hears of it by its
# next heartbeat, which is every five seconds unless the brokers say otherwise.
_OVERDUE = 8.0
_INBOX_RECORDS = 10_000  # agents' records that may wait in memory before their partitions are paused


class Consumer(faust_consumer.Consumer):
    """One worker's consumer. ``pool`` is set by ``StreamApp`` before the app starts; a plain Faust app has none."""

    consumer_stopped_errors = ()
    transport: Any  # the driver's; Faust's interface does not know its settings
    pool: HandlerPool | None = None
    handler_transactions: Transactions | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = GroupConsumer(self.transport.kafka, self.transport.group_settings(), self)
        self._agent_tps: set[TP] = set()
        self._counts: dict[str, int] = {}
        self._highwaters: dict[TP, int] = {}
        self._inbox: asyncio.Queue[tuple[TP, list[Message]]] = asyncio.Queue()
        self._inbox_records = 0
        self._throttled: set[TP] = set()
        self._skipped: dict[TP, int] = {}
        self._next: dict[TP, int] = {}
        self._moves: dict[TP, int] = {}
        self._current: tuple[TP, deque[Message], int] | None = None
        self._handover: dict[TP, int] | None = None
        self._regroup: asyncio.Task[None] | None = None
        self._changed = False
        self._ends: dict[TP, int] = {}  # where the fetches of handlers' partitions met the end of the log
        self._fetched: dict[TP, int] = {}  # behind the last record of each
        self._sought: set[TP] = set()  # since the poll began: what it brings of them stood before the seek
        self._routing = asyncio.Lock()
        self._polled_at = 0.0
        self._leaving = False
        self._dropped = False
        self._rejoining = False
        self._away = asyncio.Event()

    # -- life -----------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        self.group.start()
        await super().on_start()

    async def leave(self) -> None:
        """Stop polling, let the handlers finish what runs, commit, leave the group. Idempotent.

        Faust stops its agents before its consumer; the app calls this first, while everything still works.
        """
        if not self._leaving:
            self._leaving = True
            if self.state == "running":
                await self._away.wait()
            await self.group.close()

    async def on_stop(self) -> None:
        """Leave the group if that has not happened, and let go of everything."""
        await super().on_stop()
        await self.leave()
        if self._regroup is not None:
            self._regroup.cancel()
        if self.pool is not None:
            await self.pool.close()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group for the agents' topics and the handlers'; not when we are leaving already."""
        try:
            await self._join(topics)
        except GroupClosed:
            if not self._leaving:
                raise

    async def _join(self, topics: Iterable[str]) -> None:
        wanted = set(topics) | (self.pool.topics if self.pool is not None else set())
        self._counts = await until_available(lambda: topic_partitions(self.transport.kafka))
        await until_available(self._declare_missing)
        missing = sorted(topic for topic in wanted if topic not in self._counts)
        if missing:
            self.log.warning("these topics do not exist yet and are waited for: %s", ", ".join(missing))
        if self.pool is not None:
            self.pool.start()
        await self.group.subscribe(wanted)
        self._regroup_soon()

    async def _declare_missing(self) -> None:
        """Create the agents' topics that do not exist, as Faust's settings say. Faust itself leaves that to brokers
        that create topics when asked about them; few are allowed to."""
        missing = [channel for channel in list(self.app.topics) if not self._counts.keys() >= set(channel.topics)]
        for channel in missing:
            await channel.declare()
        if missing:
            self._counts = await topic_partitions(self.transport.kafka)

    @property
    def polled_at(self) -> float:
        """When the group was last polled, by the loop's clock: it must not be long ago while we live."""
        return self._polled_at

    # -- the poll loop --------------------------------------------------------------------------------------------

    @Service.task
    async def _poll(self) -> None:
        most = self.app.conf.broker_max_poll_records or _FETCH_RECORDS
        try:
            while not (self.should_stop or self._leaving):
                self._polled_at = self.loop.time()
                if self._rejoining:
                    self._rejoining = False
                    await self.group.rejoin()
                if self._dropped:
                    self._dropped = False
                    await self._read_again()
                self._sought.clear()
                messages = await self.group.consume(most, 0.1)
                if messages:
                    async with self._routing:
                        await self._route(messages)
        finally:
            self._away.set()

    async def _route(self, messages: list[Message]) -> None:
        handled: Batches = []
        for tp, batch in self._split(messages):
            if self.pool is not None and tp.topic in self.pool.topics:
                if tp not in self._sought:
                    handled.append((tp, batch))
                    self._fetched[tp] = batch[-1].offset() + 1
            elif tp in self._agent_tps:
                self._deliver(tp, batch)
        if handled and self.pool is not None:
            await self.pool.take(handled)

    def end(self, tp: TP) -> int | None:
        """Where the last fetch that met the end of a handlers' partition found it."""
        return self._ends.get(tp)

    def at_end(self, tp: TP, settled: int) -> bool:
        """Whether a fetch met the end of a handlers' partition behind records that all stand before ``settled``. The
        end has a number of its own: a transaction leaves a mark behind its records, which nobody is given."""
        fetched = self._fetched.get(tp, 0)
        return fetched <= settled and fetched <= self._ends.get(tp, -1)

    @Service.task
    async def _commit_handlers(self) -> None:
        while self.pool is not None and not self.should_stop:
            await self.sleep(self.commit_interval)
            if self.handler_transactions is None:
                self.pool.commit()
            else:
                await self.handler_transactions.commit()

    @Service.task
    async def _give_back(self) -> None:
        """Join the group again when we hold for long what it has given to others; see ``overdue``."""
        late: frozenset[TP] = frozenset()
        while not self.should_stop:
            await self.sleep(_OVERDUE)
            try:
                now = await self.group.overdue()
            except HeadwaterError as exc:
                self.log.debug("whether partitions are overdue is not known: %s", exc)
                continue
            if late & now and not self._leaving:
                self.log.warning(
                    "joining the group again: it has given %s to others, and its client did not say so",
                    ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(late & now)),
                )
                self._rejoining, now = True, frozenset()
            late = now

    def dropped(self) -> None:
        """The handlers' state was dropped: before the next poll, go back to what is committed."""
        self._dropped = True

    async def _read_again(self) -> None:
        ours = self._handled(self.group.assignment)
        if not ours or self.pool is None:
            return
        self.group.pause(ours)
        self._forget_ends(ours)
        committed = await until_available(lambda: self.group.ask.committed(ours))
        marks = await until_available(lambda: self.group.ask.watermarks(ours))
        await until_available(
            lambda: self.group.seek({tp: marks[tp][0] if at is None else at for tp, at in committed.items()})
        )
        self.pool.assigned(ours)

    def _split(self, messages: list[Message]) -> Batches:
        """By partition, each in offset order. librdkafka gives runs of one partition, so few comparisons find them."""
        runs: dict[tuple[str, int], list[Message]] = {}
        topic, partition = "", -1
        run: list[Message] = []
        for message in messages:
            if message.error() is not None:  # type: ignore[attr-defined]
                self._told(message)
                continue
            if message.partition() != partition or message.topic() != topic:
                topic, partition = message.topic(), message.partition()
                run = runs.setdefault((topic, partition), [])
            run.append(message)
        return [(TP(*key), batch) for key, batch in runs.items() if batch]

    def _told(self, message: Any) -> None:
        """The end of a partition, or a complaint."""
        if message.error().code() != KafkaError._PARTITION_EOF:
            self._complain(message)
        elif (tp := TP(message.topic(), message.partition())) not in self._sought:
            self._ends[tp] = message.offset()

    def _complain(self, message: Any) -> None:
        if message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            # Without the group nothing can be consumed; a topic that we may not read stops that topic alone.
            raise translate(message.error(), f"consuming as group {self.app.conf.id}")
        error = translate(message.error(), f"consuming {message.topic()}[{message.partition()}]")
        if isinstance(error, UsageError):
            self.log.error("%s", error)
        else:
            self.log.warning("%s", error)

    # -- agents ---------------------------------------------------------------------------------------------------

    def _deliver(self, tp: TP, batch: list[Message]) -> None:
        self._inbox.put_nowait((tp, batch))
        self._inbox_records += len(batch)
        if self._inbox_records > _INBOX_RECORDS and tp not in self._throttled:
            self._throttled.add(tp)
            self.group.pause([tp])

    async def _drain_messages(self, fetcher: Any) -> None:
        """Give agents their records, in Faust's own way; runs while Faust's fetcher does."""
        try:
            await self._drain_inbox(fetcher)
        except asyncio.CancelledError:
            # Faust takes a cancelled fetcher for one that a rebalance interrupted, and restarts it.
            if not self.app.should_stop:
                raise

    async def _drain_inbox(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait_first(self.can_resume_flow.wait())
                continue
            if self._current is None:
                tp, batch = await self._inbox.get()
                self._inbox_records -= len(batch)
                self._current = tp, deque(batch), self._moves.get(tp, 0)
                continue  # the flow may have stopped while we waited
            await self._give_current(*self._current)
            if self._throttled and self._inbox_records < _INBOX_RECORDS // 2:
                self.group.resume(self._throttled - self._paused_partitions)
                self._throttled.clear()

    async def _give_current(self, tp: TP, batch: deque[Message], moves: int) -> None:
        """Give records until the flow stops; the rest waits, since not every stop is followed by a seek."""
        while batch and self.flow_active:
            if moves != self._moves.get(tp, 0) or tp not in self._agent_tps:
                batch.clear()  # fetched before a seek: giving them would hide what comes again before them
                break
            message = batch.popleft()
            if tp in self._paused_partitions:
                self._skipped[tp] = min(message.offset(), self._skipped.get(tp, message.offset()))
                continue
            await self._give(tp, message)
        if not batch:
            self._current = None

    async def _give(self, tp: TP, message: Message) -> None:
        offset = message.offset()
        if offset < self._next.get(tp, 0):
            return  # delivered before
        self._next[tp] = offset + 1
        read = self._read_offset[tp]
        if read and offset - read > 1 and self.app.topics.acks_enabled_for(tp.topic):
            await self._add_gap(tp, read + 1, offset)
        await self.wait_first(self.callback(self._to_message(tp, message)), self.suspend_flow.wait())
        self._read_offset[tp] = offset

    def _to_message(self, tp: TP, record: Message) -> ConsumerMessage:
        kind, at = record.timestamp()
        key, value = record.key(), record.value()
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset(),
            at / 1000.0,
            kind,
            record.headers() or [],
            key,
            value,
            None,
            len(key) if key is not None else 0,
            len(value) if value is not None else 0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:
        raise NotImplementedError("records come from the poll loop; nothing asks for them one batch at a time")

    async def rewind(self, rewind: Rewind) -> None:
        """Read partitions of handlers again from further back."""
        if self.pool is None:
            return
        positions = dict(rewind.positions)
        if rewind.since is not None:
            positions.update(await self.group.ask.offsets_since(rewind.positions, rewind.since))
        async with self._routing:  # what is on its way to the handlers would pass for what is read again
            ours = self.pool.rewind(positions)
            self._sought.update(ours)
            self._forget_ends(ours)
            await self.group.seek(ours)
        self.log.warning("reading again from %s", ours)

    def _forget_ends(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self._ends.pop(tp, None)
            self._fetched.pop(tp, None)

    # -- rebalances (called by the group) -------------------------------------------------------------------------

    def on_assigned(self, partitions: frozenset[TP]) -> None:
        handlers = self._handled(partitions)
        self._forget_ends(handlers)
        if handlers and self.pool is not None:
            self.pool.assigned(handlers)
        agents = partitions - handlers
        if agents:
            self._agent_tps |= agents
            self._regroup_soon()

    async def on_revoked(self, partitions: frozenset[TP]) -> Marks:
        offsets: dict[TP, int] = {}
        told: dict[TP, str] = {}
        handlers = self._handled(partitions)
        if handlers and self.pool is not None and self.handler_transactions is not None:
            await self.pool.drain(handlers, self.transport.drain_seconds)
            await self.handler_transactions.commit(leaving=handlers)
        elif handlers and self.pool is not None:
            settled, told = await self.pool.revoked(handlers, self.transport.drain_seconds)
            offsets.update(settled)
        agents = partitions - handlers
        if agents:
            offsets.update(await self._hand_over(agents))
        return offsets, told

    def on_lost(self, partitions: frozenset[TP]) -> None:
        handlers = self._handled(partitions)
        if handlers and self.pool is not None:
            self.pool.lost(handlers)
            if self.handler_transactions is not None:
                self.handler_transactions.doom(
                    BrokerUnavailable("partitions were given to another worker before the commit")
                )
        agents = partitions - handlers
        if agents:
            self._agent_tps -= agents
            self._regroup_soon()

    def on_uncommitted(self, partitions: frozenset[TP]) -> None:
        if self.pool is not None:
            self.pool.uncommitted(self._handled(partitions))

    def _handled(self, partitions: Iterable[TP]) -> set[TP]:
        topics = self.pool.topics if self.pool is not None else frozenset()
        return {tp for tp in partitions if tp.topic in topics}

    async def _hand_over(self, revoked: frozenset[TP]) -> dict[TP, int]:
        """Faust's revocation: it waits for its streams and commits; the commit is gathered, not sent (see _commit)."""
        self._handover = {}
        try:
            self.app.on_rebalance_start()
            await self.on_partitions_revoked(set(revoked))
        finally:
            offsets, self._handover = self._handover, None
        self._agent_tps -= revoked
        self._regroup_soon()
        return {tp: offset for tp, offset in (offsets or {}).items() if tp in revoked}

    def _regroup_soon(self) -> None:
        """Tell Faust its whole assignment, once for all that changed meanwhile: it knows no incremental change."""
        self._changed = True
        if self._regroup is None or self._regroup.done():
            self._regroup = asyncio.ensure_future(self._tell_assignment())

    async def _tell_assignment(self) -> None:
        while self._changed and not self.should_stop:
            self._changed = False
            if not self.app.rebalancing:
                self.app.on_rebalance_start()
            # Faust stops the flow when partitions are revoked, and resumes it once it has sought; it resumes the
            # partitions before that, and what came between would be given twice.
            self.stop_flow()
            self.app.flow_control.suspend()
            self.app.consumer_generation_id += 1
            self._take_inbox()
            self._skipped.clear()
            await self.on_partitions_assigned(set(self._agent_tps), self.app.consumer_generation_id)

    # -- Faust's questions ----------------------------------------------------------------------------------------

    def assignment(self) -> set[TP]:
        """The agents' partitions."""
        return set(self._agent_tps)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        paused = list(tps)
        super().pause_partitions(paused)
        self.group.pause(paused)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        resumed = list(tps)
        super().resume_partitions(resumed)
        skipped = {tp for tp in resumed if tp in self._skipped}
        if skipped:
            self.add_future(self._resume_skipped(skipped))
        self.group.resume(tp for tp in resumed if tp not in skipped)

    async def _resume_skipped(self, tps: set[TP]) -> None:
        """Go back to what was skipped during the pause, unless a seek has gone further back meanwhile."""
        offsets = {tp: self._skipped[tp] for tp in tps if tp in self._skipped}
        if offsets:
            await self._move_to(offsets)
        self.group.resume(tps - self._paused_partitions)

    def on_buffer_full(self, tp: TP) -> None:
        super().on_buffer_full(tp)
        if not self.app.in_recovery:
            self.group.pause([tp])

    def on_buffer_drop(self, tp: TP) -> None:
        buffered = tp in self._buffered_partitions
        super().on_buffer_drop(tp)
        if buffered:
            self.group.resume([tp])

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        if self._handover is not None:
            # The poll thread waits for us inside a revocation and commits what it is given when we return.
            self._handover.update(offsets)
            return True
        try:
            await self.group.commit(offsets)
        except HeadwaterError as exc:
            self.log.warning("%s", exc)
            return False
        return True

    async def seek_to_committed(self) -> Mapping[TP, int]:
        committed = await self.group.ask.committed(self._agent_tps)
        low = {tp for tp, offset in committed.items() if offset is None}
        marks = await self.group.ask.watermarks(low) if low else {}
        target = {tp: marks[tp][0] if offset is None else offset for tp, offset in committed.items()}
        await self._move_to(target)
        return target

    async def _seek(self, partition: TP, offset: int) -> None:
        await self._move_to({partition: offset})

    async def _move_to(self, offsets: Mapping[TP, int]) -> None:
        """Seek, and forget what was fetched from where we stood before: it would be delivered twice."""
        # What was skipped before the seek comes again by it; what is skipped while it is under way, too.
        self._forget_skipped(offsets)
        await self.group.seek(offsets)
        self._forget_skipped(offsets)
        self._next.update(offsets)
        self._moves.update({tp: self._moves.get(tp, 0) + 1 for tp in offsets})
        kept = [entry for entry in self._take_inbox() if entry[0] not in offsets]
        for tp, batch in kept:
            self._deliver(tp, batch)

    def _forget_skipped(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self._skipped.pop(tp, None)

    def _take_inbox(self) -> Batches:
        taken = []
        while not self._inbox.empty():
            taken.append(self._inbox.get_nowait())
        self._inbox_records = 0
        return taken

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        await self._move_to(partitions)
        for tp, offset in partitions.items():
            # Faust compares the next record with the one before it.
            self._read_offset[tp] = offset if offset > 0 else None

    async def position(self, tp: TP) -> int | None:
        offset = (await self.group.ask.positions([tp]))[tp]
        return offset if offset >= 0 else None

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: low for tp, (low, _) in (await self.group.ask.watermarks(partitions)).items()}

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        marks = await self.group.ask.watermarks(partitions)
        self._highwaters.update({tp: high for tp, (_, high) in marks.items()})
        return {tp: high for tp, (_, high) in marks.items()}

    def highwater(self, tp: TP) -> int:
        # The poll thread alone may ask the client; what was asked last and what was delivered since is known here.
        return max(self._highwaters.get(tp, 0), self._next.get(tp, 0))

    def topic_partitions(self, topic: str) -> int | None:
        return self._counts.get(topic)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        count = self._counts.get(topic)
        if partition is not None or count is None or key is None:
            return partition
        return partition_for(key, count)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Seconds = 30.0,
        retention: Seconds | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Create a topic if it does not exist.

        Raises:
            HeadwaterError: with ``ensure_created``, when the brokers refused; else that is logged.
        """
        if not self.app.conf.topic_allow_declare:
            self.log.warning("topic_allow_declare is off: %s is not created", topic)
            return
        request = topic_request(topic, partitions, replication, config, retention, compacting, deleting)
        try:
            await create_topics(self.transport.kafka, [request])
        except BrokerUnavailable as exc:
            if ensure_created:
                raise
            self.log.warning("%s", exc)
        self._counts.setdefault(topic, partitions)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock detector asks; ours is ``polled_at``."""
