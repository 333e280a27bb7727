"""Transactions: what handlers send and the offsets that it settles are on the log together, or not at all (KIP-98).

One transaction at a time, from one commit to the next. A commit shuts the sender for a moment, waits for all
acknowledgements, takes the offsets, with what is settled beyond them (see ``handlers.ahead``), and commits. Handlers go
on meanwhile: what they emit is kept until they return, so a handler that runs has sent nothing yet.

The group's metadata goes with the offsets (KIP-447): the brokers refuse the transaction of a worker that has lost its
partitions, so one producer per worker is enough. After an abort everything in memory is dropped and every partition is
read again from what is committed, as after a rebalance.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from faust.types import TP

from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, Overloaded
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.message import Headers
from headwater_streams.handlers.pool import HandlerPool
from headwater_streams.transport.errors import Fenced, kafka_error, translate
from headwater_streams.transport.group import GroupConsumer, positions_of
from headwater_streams.transport.sender import OnDelivery, Sender

__all__ = ["TransactionalSender", "Transactions"]

logger = logging.getLogger(__name__)

_TIMEOUT = 15.0  # seconds: what a killed worker left open holds readers up for so long at most
_ANSWER = 10.0  # seconds for one call
_PATIENCE = 60.0  # seconds for a commit whose outcome is not known; then the worker ends and finds out as it starts
_ABORTS = 10  # in a row: then it is not bad luck
_QUEUE_RECORDS = 100_000


class TransactionalSender(Sender):
    """A sender in whose transactions everything is sent. ``send`` raises ``Overloaded`` while one is committed."""

    def __init__(self, kafka: KafkaSettings, *, transactional_id: str, linger: float) -> None:
        super().__init__(
            kafka,
            client_id=transactional_id,
            linger=linger,
            queue_records=_QUEUE_RECORDS,
            overrides={
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(_TIMEOUT * 1000),
                "message.timeout.ms": int(_TIMEOUT * 1000),
            },
        )
        self._shut = True
        self.used = False

    async def begin_first(self) -> None:
        """End what an earlier life of this id left open, and begin.

        Raises:
            HeadwaterError: the brokers do not answer, or refuse the transactional id.
        """
        await asyncio.to_thread(_step, "preparing transactions", self.raw.init_transactions)
        self.begin()

    def begin(self) -> None:
        """Begin the next transaction and take records."""
        self.raw.begin_transaction()
        self.used = False
        self._shut = False

    def shut(self) -> None:
        """Take no records until ``reopen`` or ``begin``."""
        self._shut = True

    def reopen(self) -> None:
        """Take records again, into the same transaction."""
        self._shut = False

    def admits(self, count: int) -> bool:
        """Whether so many records can be sent now, all of them."""
        waiting = len(self.raw)
        return not self._shut and (waiting == 0 or waiting + count <= _QUEUE_RECORDS // 2)

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        on_delivery: OnDelivery | None = None,
        timestamp: int = 0,
    ) -> None:
        if self._shut:
            raise Overloaded("a transaction is being committed")
        self.used = True
        super().send(topic, value, key, headers, partition, on_delivery, timestamp)


class Transactions:
    """Commits what one worker's handlers did. Every method belongs to the event loop's thread.

    Args:
        on_crash: told of an error after which this worker must not go on.
        on_aborted: called when everything was dropped: read every partition again from what is committed.
    """

    def __init__(
        self,
        sender: TransactionalSender,
        group: GroupConsumer,
        pool: HandlerPool,
        *,
        on_crash: Callable[[BaseException], None],
        on_aborted: Callable[[], None],
    ) -> None:
        self.sender = sender
        self._group = group
        self._pool = pool
        self._on_crash = on_crash
        self._on_aborted = on_aborted
        self._lock = asyncio.Lock()
        self._doomed: HeadwaterError | None = None
        self._aborts = 0
        self._crashed = False
        self._aborting: asyncio.Task[None] | None = None
        self.committed = 0
        self.aborted = 0

    async def commit(self, leaving: Collection[TP] = ()) -> None:
        """Commit what is settled, or abort and drop everything if that cannot be.

        Args:
            leaving: partitions that are being taken from us, drained; they are forgotten before anything else is sent.
        """
        async with self._lock:
            if self._crashed:
                return
            self.sender.shut()
            try:
                await self._commit()
            except _Abort as exc:
                await self._abort(exc.error)
            except HeadwaterError as exc:
                self._crash(exc)
                return
            if leaving:
                self._pool.lost(leaving)
            self.sender.reopen()

    def doom(self, error: HeadwaterError) -> None:
        """Partitions were lost: what was sent of their records must not be committed. Abort, now."""
        self._doomed = error
        self._aborting = asyncio.ensure_future(self.commit())

    async def close(self) -> None:
        """Stop sending. What was not committed is given up: commit first."""
        self.sender.shut()
        await self.sender.close(timeout=_ANSWER)

    async def _commit(self) -> None:
        if self._doomed is not None:
            raise _Abort(self._doomed)
        # First, so that a rebalance from here on makes it stale and the brokers refuse what it vouches for.
        metadata = await self._group.group_metadata()
        if metadata is None:
            raise _Abort(BrokerUnavailable("partitions are taken before the group told who we are in it"))
        if self.sender.used and await self.sender.flush(_ANSWER):
            raise _Abort(BrokerUnavailable(f"what was sent was not acknowledged within {_ANSWER:.0f} s"))
        await self._pool.quiet()
        if self._doomed is not None:
            raise _Abort(self._doomed)
        offsets, told = self._pool.marks()
        if not offsets and not self.sender.used:
            return
        await asyncio.to_thread(self._send_and_commit, offsets, told, metadata)
        self._pool.committed(offsets, told)
        self.committed += 1
        self._aborts = 0
        self.sender.begin()
        self.sender.shut()

    def _send_and_commit(self, offsets: Mapping[TP, int], told: Mapping[TP, str], metadata: Any) -> None:
        positions = positions_of(offsets, told)
        raw = self.sender.raw
        if positions:
            _step("adding offsets to the transaction", raw.send_offsets_to_transaction, positions, metadata)
        _step("committing the transaction", raw.commit_transaction)

    async def _abort(self, error: HeadwaterError) -> None:
        self._doomed = None
        self._aborts += 1
        self.aborted += 1
        logger.warning("a transaction is aborted, its records are handled again: %s", error)
        self._pool.drop()
        try:
            await asyncio.to_thread(_step, "aborting the transaction", self.sender.raw.abort_transaction)
        except (HeadwaterError, _Abort) as exc:
            self._crash(exc.error if isinstance(exc, _Abort) else exc)
            return
        if self._aborts >= _ABORTS:
            self._crash(error)
            return
        self.sender.begin()
        self.sender.shut()
        self._on_aborted()

    def _crash(self, error: HeadwaterError) -> None:
        self._crashed = True
        self._pool.drop()
        logger.critical("this worker ends, its transaction is not committed: %s", error)
        self._on_crash(error)


class _Abort(Exception):
    """The transaction cannot be committed and must be aborted."""

    def __init__(self, error: HeadwaterError) -> None:
        super().__init__(str(error))
        self.error = error


def _step(doing: str, call: Callable[..., Any], *args: Any) -> None:
    """One call of the protocol, repeated while its outcome is not known. Blocks.

    Raises:
        _Abort: the transaction must be aborted.
        Fenced: another producer has taken our transactional id.
        HeadwaterError: this producer cannot go on.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            call(*args, _ANSWER)
        except KafkaException as exc:
            error = kafka_error(exc)
            if error.retriable() and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            translated = _translated(error, doing)
            if error.txn_requires_abort():
                raise _Abort(translated) from exc
            raise translated from exc
        else:
            return


def _translated(error: KafkaError, doing: str) -> HeadwaterError:
    if error.code() in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError._FENCED, KafkaError.PRODUCER_FENCED):
        return Fenced(
            f"{doing}: {error.str()} ({error.name()}); another worker uses our transactional id: give each worker a"
            " HEADWATER_WORKER_ID of its own"
        )
    return translate(error, doing)
