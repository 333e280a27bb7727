"""One member of a consumer group: librdkafka behind a single poll thread, awaited from the event loop.

Every librdkafka call runs on that one thread, one at a time, and the loop awaits its answer; the thread is idle
while the loop works on a batch. So nothing contends for the GIL, a rebalance callback may block (it runs on the
poll thread) while the loop drains, and a batch costs one thread hop (measured: no slower than polling in the loop).

Rebalance protocol: KIP-848 (``group.protocol=consumer``) with the server's range assignor where the brokers have
it, else the classic protocol with the range assignor. Both give equal partition numbers of equally partitioned
topics to one member, which keeps a topic and its retry tiers together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Literal, Protocol, TypeVar, cast

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from faust.types import TP

from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.message import Message
from headwater_streams.transport.complaints import Complaints
from headwater_streams.transport.errors import GroupClosed, kafka_error, translate
from headwater_streams.transport.group_settings import GroupSettings
from headwater_streams.transport.overdue import Overdue
from headwater_streams.transport.questions import Questions

__all__ = ["GroupConsumer", "GroupListener", "Marks", "positions_of"]

logger = logging.getLogger(__name__)

_MANY = 250  # records
_PATIENCE = 0.004  # seconds
_SLICE = 0.01  # seconds: how soon a poll that finds nothing makes way for another call
_WAKE_TIMEOUT = 0.005  # seconds
_UNRELEASED = "instance ID is still used by another member"  # of a fatal error librdkafka gives the text alone
_UNVERSIONED = "API version not supported"  # so too of brokers without KIP-848
_UNRELEASED_WAIT = 1.0  # seconds
_FOLLOW_LIMIT = 5.0  # seconds

T = TypeVar("T")
_UNSUPPORTED = {KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_ASSIGNOR}
_FINAL = _UNSUPPORTED | {KafkaError.GROUP_AUTHORIZATION_FAILED}


Marks = tuple[Mapping[TP, int], Mapping[TP, str]]
"""Offsets to commit, and the metadata of some of them."""


class GroupListener(Protocol):
    """Who is told of rebalances and failed commits. All is called in the event loop."""

    def on_assigned(self, partitions: frozenset[TP]) -> None:
        """Partitions are ours, paused. Must not block; resume them when ready."""
        ...

    async def on_revoked(self, partitions: frozenset[TP]) -> Marks:
        """Partitions are being taken: finish or abandon their records; return offsets to commit and their metadata.

        The group waits for us meanwhile. Returning does not promise that the commit succeeds.
        """
        ...

    def on_lost(self, partitions: frozenset[TP]) -> None:
        """Partitions are already somebody else's: forget them, commit nothing."""
        ...

    def on_uncommitted(self, partitions: frozenset[TP]) -> None:
        """A commit that was sent without waiting failed for these: commit them again."""
        ...


class GroupConsumer:
    """A group member. Start it, subscribe, then call ``consume`` in a loop; ``close`` leaves the group.

    All coroutines must be called from the loop that called ``start``. ``consume`` must be called at least every
    ``max_poll_interval`` seconds, since rebalances are served inside it.
    """

    def __init__(self, kafka: KafkaSettings, settings: GroupSettings, listener: GroupListener) -> None:
        self._kafka = kafka
        self._settings = settings
        self._listener = listener
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"headwater-poll-{settings.group}")
        self._protocol: Literal["consumer", "classic"] = "classic" if settings.protocol == "classic" else "consumer"
        self._assigned: set[TP] = set()
        self._topics: list[str] = []
        self._consumer: Consumer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fatal: KafkaError | None = None
        self._closed = False
        self._revoking = asyncio.Event()
        self._metadata: Any = None
        self._member_id: str | None = None
        self._last_batch = 0
        self._asked = 0  # calls for the poll thread, counted by the loop
        self._answered = 0  # those it began, counted by itself
        self._joined = False
        self._followed = False
        self._commits: dict[frozenset[tuple[TP, int, str]], asyncio.Future[None]] = {}  # waited for; poll thread only
        self._overdue = Overdue(kafka, settings.group)
        self._complaints = Complaints("consumer")
        self.ask = Questions(self._call, lambda: self.raw)

    @property
    def assignment(self) -> frozenset[TP]:
        """The partitions that are ours now."""
        return frozenset(self._assigned)

    @property
    def protocol(self) -> str:
        """``consumer`` (KIP-848) or ``classic``."""
        return self._protocol

    @property
    def member_id(self) -> str | None:
        """Our id in the group; ``None`` or empty while there is none yet."""
        return self._member_id

    @property
    def raw(self) -> Consumer:
        """The librdkafka consumer: for the poll thread only. confluent-kafka serializes its calls, so another thread
        would wait for a poll, and for ever while that poll serves a rebalance which waits for the loop."""
        assert self._consumer is not None, "start() first"
        return self._consumer

    def start(self) -> None:
        """Create the client in the running loop. Does not connect."""
        self._loop = asyncio.get_running_loop()
        self._consumer = self._new_client()

    def _new_client(self) -> Consumer:
        config: dict[str, Any] = dict(self._settings.config(self._kafka, self._protocol))
        config["error_cb"] = self._on_error
        config["on_commit"] = self._on_commit
        config["logger"] = logger
        try:
            return Consumer(config)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "configuring the Kafka consumer") from exc

    async def subscribe(self, topics: Collection[str]) -> None:
        """Join the group for exactly these topics. Returning does not promise an assignment."""
        self._topics = sorted(topics)
        await self._call(self._subscribe)

    def _subscribe(self) -> None:
        if self._topics:
            self.raw.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        else:
            self.raw.unsubscribe()

    async def consume(self, max_records: int, timeout: float) -> list[Message]:
        """Up to ``max_records`` records, waiting at most ``timeout`` seconds for the first.

        Serves rebalances. Records carry errors only of their partition (``message.error()``).

        Raises:
            HeadwaterError: the client met a fatal error and cannot go on.
        """
        assert self._loop is not None, "start() first"
        messages = await self._loop.run_in_executor(self._thread, self._consume, max_records, timeout)
        if self._fatal is not None:
            await self._recover(self._fatal)
        return messages

    def _consume(self, max_records: int, timeout: float) -> list[Message]:
        # librdkafka waits the whole time-out for a full batch. So take what is there and wait only for a first record,
        # unless records come in numbers: then a few milliseconds of patience save many small batches.
        messages = self.raw.consume(max_records, _PATIENCE if self._last_batch >= _MANY else 0)
        if not messages and timeout > 0:
            first = self._first(timeout)
            if first is not None:
                messages = [first, *self.raw.consume(max_records - 1, 0)] if max_records > 1 else [first]
        if len(messages) == 1 and (error := messages[0].error()) is not None and error.code() == KafkaError._FATAL:
            self._fatal = error  # librdkafka tells of some fatal errors only so
            return []
        if not self._member_id:
            self._member_id = self.raw.memberid()
        self._last_batch = len(messages)
        return cast("list[Message]", messages)

    def _first(self, timeout: float) -> Any:
        """The next record; ``None`` after ``timeout`` seconds, or soon when another call waits for this thread."""
        deadline = monotonic() + timeout
        while (first := self.raw.poll(_SLICE)) is None and self._asked == self._answered and monotonic() < deadline:
            pass
        return first

    async def _recover(self, error: KafkaError) -> None:
        """Fall back to the classic protocol where that is what the brokers lack; else raise."""
        self._fatal = None
        if self._settings.protocol == "auto" and self._protocol == "consumer" and _is_unsupported(error):
            logger.warning("the brokers do not speak the KIP-848 group protocol; joining with the classic one")
            self._protocol = "classic"
            await self.rejoin()
            return
        if self._settings.member is not None and _UNRELEASED in error.str():
            await self._succeed(self._settings.member)
            return
        raise translate(error, f"consuming as group {self._settings.group}")

    async def _succeed(self, member: str) -> None:
        """Be the static member that the group still knows: our former life, which was killed.

        KIP-848 lets nobody follow a member that did not say goodbye before its session has ended (45 s by default).
        The classic protocol does at once (KIP-345), and what it admitted is let go of at once by KIP-848 too.

        Raises:
            UsageError: we were a member ourselves, so another worker of our id lives and has followed us.
        """
        if self._joined:
            raise UsageError(
                f"another worker has taken the place of {member} in the group {self._settings.group}: "
                "give each worker a HEADWATER_WORKER_ID of its own"
            )
        if not self._followed:
            self._followed = True
            logger.warning("the last %s was killed; taking its place in the group", member)
            await self._call(self._replace, self._follow)
        else:
            logger.warning("waiting for the session of the last %s to end", member)
            await asyncio.sleep(_UNRELEASED_WAIT)
            await self._call(self._replace)

    def _follow(self) -> None:
        """Join for a moment with the classic protocol. Closing a static member of it sends no goodbye."""
        admitted: list[object] = []
        client = Consumer({**self._settings.config(self._kafka, "classic"), "logger": logger})
        try:
            client.subscribe(self._topics, on_assign=lambda *_: admitted.append(True))
            deadline = monotonic() + _FOLLOW_LIMIT
            while not admitted and monotonic() < deadline:
                client.poll(_SLICE)
        finally:
            client.close()

    async def rejoin(self) -> None:
        """Leave the group as ``close`` does, and join it again. Returning does not promise an assignment."""
        await self._call(self._replace)

    def _replace(self, between: Callable[[], None] | None = None) -> None:
        # In one step of the poll thread: nobody may meet the closed client.
        self.raw.close()
        if between is not None:
            between()
        self._consumer = self._new_client()
        self._member_id = None
        self._subscribe()

    async def overdue(self) -> frozenset[TP]:
        """What we hold and the group has given away; see ``overdue``. Nothing while we are giving partitions back.

        Raises:
            HeadwaterError: no answer.
        """
        held = self.assignment
        if self._protocol != "consumer" or not held or not self._member_id or self._revoking.is_set():
            return frozenset()
        late = await asyncio.to_thread(self._overdue.of, self._member_id, held)
        return late & self.assignment

    def pause(self, partitions: Iterable[TP]) -> None:
        """Stop fetching soon; what librdkafka had fetched ahead is dropped and fetched again on ``resume``.

        Returns at once. Records that ``consume`` is just returning still come.
        """
        self._apply_soon("pause", partitions)

    def resume(self, partitions: Iterable[TP]) -> None:
        """Fetch again soon, from where ``consume`` left off. Returns at once."""
        self._apply_soon("resume", partitions)

    def _apply_soon(self, method: Literal["pause", "resume"], partitions: Iterable[TP]) -> None:
        # On the poll thread, like everything: beside a running consume() the position kept would be an old one.
        wanted = list(partitions)
        if wanted and not self._closed:
            self._submit(self._apply, method, wanted)

    def _apply(self, method: Literal["pause", "resume"], partitions: list[TP]) -> None:
        ours = [TopicPartition(tp.topic, tp.partition) for tp in partitions if tp in self._assigned]
        if not ours:
            return
        try:
            getattr(self.raw, method)(ours)
        except KafkaException as exc:
            # Only a partition that a rebalance is just taking away answers so; its state no longer matters.
            logger.debug("%s of %s: %s", method, ours, exc)
            return
        if method == "resume":
            self._wake(ours)

    def _wake(self, partitions: list[TopicPartition]) -> None:
        """Ask the leaders something. librdkafka's broker threads sleep up to a second beside a paused partition, and
        no resume wakes them, only a request. Its answer, which may stand behind a long fetch, is not waited for."""
        ends = [TopicPartition(tp.topic, tp.partition, OFFSET_END) for tp in partitions]
        try:
            self.raw.offsets_for_times(ends, _WAKE_TIMEOUT)
        except KafkaException as exc:
            if kafka_error(exc).code() != KafkaError._TIMED_OUT:
                logger.debug("the leaders of %s were not woken and fetch within a second: %s", partitions, exc)

    async def seek(self, offsets: Mapping[TP, int]) -> None:
        """Continue from these offsets. Records already returned by ``consume`` are the caller's business."""
        await self._call(self._seek, offsets)

    def _seek(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            try:
                self.raw.seek(TopicPartition(tp.topic, tp.partition, offset))
            except KafkaException as exc:
                raise translate(kafka_error(exc), f"seeking in {tp.topic}[{tp.partition}]") from exc

    async def commit(self, offsets: Mapping[TP, int]) -> None:
        """Commit and wait for the broker's answer.

        Raises:
            HeadwaterError: not committed; after a rebalance that is normal, and the records come again.
        """
        await self._call(self._commit, offsets, {})

    def _commit(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None:
        positions = positions_of(offsets, told)
        if not positions:
            return
        try:
            answer = self.raw.commit(offsets=positions, asynchronous=False)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "committing offsets") from exc
        for position in answer or []:
            if position.error is not None:
                raise translate(position.error, f"committing offset of {position.topic}[{position.partition}]")

    async def commit_told(self, offsets: Mapping[TP, int], told: Mapping[TP, str], timeout: float = 10.0) -> None:
        """Commit offsets with their metadata and wait ``timeout`` seconds for the answer; polls and rebalances go on.

        Raises:
            BrokerUnavailable: not committed, or not known; perhaps the partitions are somebody else's.
            NotPermitted: the group is not ours to commit to.
        """
        assert self._loop is not None, "start() first"
        answer: asyncio.Future[None] = self._loop.create_future()
        await self._call(self._commit_told, offsets, told, answer)
        try:
            await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise BrokerUnavailable(f"committing offsets: no answer within {timeout:.0f} s") from None

    def _commit_told(self, offsets: Mapping[TP, int], told: Mapping[TP, str], answer: asyncio.Future[None]) -> None:
        if not self._assigned.issuperset(offsets):
            raise BrokerUnavailable("committing offsets of partitions that a rebalance has just taken away")
        positions = positions_of(offsets, told)
        try:
            self.raw.commit(offsets=positions, asynchronous=True)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "committing offsets") from exc
        self._commits[_contents(positions)] = answer

    def commit_soon(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> bool:
        """Send the commit and return; a failure is logged and the next commit covers it.

        Args:
            told: metadata of some of the offsets.

        Returns:
            Whether it will be sent: not when we are leaving, which has a commit of its own.
        """
        if self._closed:
            return False
        self._submit(self._commit_soon, offsets, told)
        return True

    def _commit_soon(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None:
        # What a rebalance took away meanwhile is the next owner's to commit.
        positions = positions_of({tp: at for tp, at in offsets.items() if tp in self._assigned}, told)
        if not positions:
            return
        try:
            self.raw.commit(offsets=positions, asynchronous=True)
        except KafkaException as exc:
            logger.warning("commit failed, the next one covers it: %s", kafka_error(exc).str())

    async def group_metadata(self) -> Any:
        """What a transaction needs to prove that it is this member's (KIP-447)."""
        assert self._loop is not None, "start() first"
        if self._closed:
            return self._metadata
        # While partitions are taken from us the poll thread waits for the loop and answers nobody.
        asked = asyncio.ensure_future(self._call(self._group_metadata))
        taken = asyncio.ensure_future(self._revoking.wait())
        try:
            await asyncio.wait({asked, taken}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                self._metadata = asked.result()
            return self._metadata
        finally:
            taken.cancel()

    def _group_metadata(self) -> Any:
        return self.raw.consumer_group_metadata()

    async def close(self) -> None:
        """Revoke (the listener is told), commit what it returns, leave the group. Idempotent."""
        if self._closed or self._consumer is None:
            self._thread.shutdown(wait=False)
            return
        self._closed = True
        await asyncio.wrap_future(self._thread.submit(self.raw.close))
        self._thread.shutdown(wait=False)

    async def _call(self, fun: Callable[..., T], *args: object) -> T:
        assert self._loop is not None, "start() first"
        return await asyncio.wrap_future(self._submit(fun, *args))

    def _submit(self, fun: Callable[..., T], *args: object) -> Future[T]:
        if self._closed:
            raise GroupClosed(f"this worker has left the group {self._settings.group}")
        self._asked += 1
        return self._thread.submit(self._answer, fun, *args)

    def _answer(self, fun: Callable[..., T], *args: object) -> T:
        self._answered += 1
        return fun(*args)

    # -- callbacks: on the poll thread, inside consume() or close() ----------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._protocol == "consumer":
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        consumer.pause(partitions)
        ours = _tps(partitions)
        self._assigned |= ours
        self._joined = True
        self._member_id = consumer.memberid()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._listener.on_assigned, ours)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        theirs = _tps(partitions)
        assert self._loop is not None
        if self._metadata is not None:  # somebody uses transactions
            try:
                self._metadata = self._group_metadata()
            except (KafkaException, RuntimeError) as exc:
                # A client that is closing may not answer; what it said last holds unless there was a rebalance.
                logger.debug("no group metadata while leaving: %r", exc)
        drained = asyncio.run_coroutine_threadsafe(self._drain(theirs), self._loop)
        offsets, told = drained.result()
        try:
            self._commit(offsets, told)
        except HeadwaterError as exc:
            logger.warning("partitions handed over without their last commit, their records come again: %s", exc)
        self._unassign(consumer, partitions)

    async def _drain(self, partitions: frozenset[TP]) -> Marks:
        self._revoking.set()
        try:
            return await self._listener.on_revoked(partitions)
        except Exception:
            # Raising here would leave librdkafka waiting for ever; committing nothing only repeats work.
            logger.exception("draining %s failed; nothing of it is committed", sorted(partitions))
            return {}, {}
        finally:
            self._revoking.clear()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = _tps(partitions)
        assert self._loop is not None
        done = asyncio.run_coroutine_threadsafe(self._tell_lost(lost), self._loop)
        done.result()
        self._unassign(consumer, partitions)

    async def _tell_lost(self, partitions: frozenset[TP]) -> None:
        self._listener.on_lost(partitions)

    def _unassign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned -= _tps(partitions)
        if self._protocol == "consumer":
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in _FINAL:
            self._fatal = error
        else:
            self._complaints.add(error)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        assert self._loop is not None
        failed = [position for position in partitions if position.error is not None]
        error = error or (failed[0].error if failed else None)
        answer = self._commits.pop(_contents(partitions), None)
        if answer is not None:
            outcome = None if error is None else translate(error, "committing offsets")
            self._loop.call_soon_threadsafe(_tell, answer, outcome)
        elif error is not None and error.code() != KafkaError._NO_OFFSET:
            logger.warning("commit failed, the next one covers it: %s (%s)", error.str(), error.name())
            self._loop.call_soon_threadsafe(self._listener.on_uncommitted, _tps(failed or partitions))


def _tell(answer: asyncio.Future[None], outcome: HeadwaterError | None) -> None:
    if answer.done():
        return  # nobody waits any more
    if outcome is None:
        answer.set_result(None)
    else:
        answer.set_exception(outcome)


def _contents(positions: Iterable[TopicPartition]) -> frozenset[tuple[TP, int, str]]:
    return frozenset((TP(at.topic, at.partition), at.offset, at.metadata or "") for at in positions)


def positions_of(offsets: Mapping[TP, int], told: Mapping[TP, str]) -> list[TopicPartition]:
    """As librdkafka takes them."""
    return [TopicPartition(tp.topic, tp.partition, offset, told.get(tp, "")) for tp, offset in offsets.items()]


def _is_unsupported(error: KafkaError) -> bool:
    return error.code() in _UNSUPPORTED or (error.code() == KafkaError._FATAL and _UNVERSIONED in error.str())


def _tps(partitions: Iterable[TopicPartition]) -> frozenset[TP]:
    return frozenset(TP(tp.topic, tp.partition) for tp in partitions)
