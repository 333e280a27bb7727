"""The spooler: events go straight to the broker while it answers, and by way of the disk while it does not.

Two states. *Direct*: an event goes to librdkafka's queue and is remembered until it is acknowledged. *Diverted*: an
event goes to the log on disk, and a thread hands what stands there to the same librdkafka queue, in the order of the
log, as room appears. Diverting first writes what is unacknowledged at that moment to the log. librdkafka tries for as
long as it takes and gives no record up, so nothing is overtaken: what its queue holds is always older than what the log
holds besides, and the log is in the order of the emits. Back to direct it goes when all of the log was handed over and
the broker has answered since; events that come then queue up behind.

The whole producer is diverted, not single keys: one unreachable partition holds the others up once librdkafka's queue
is full of its records. After a crash, the log is sent again from the oldest unacknowledged record on: such records may
stand in Kafka twice, with the same ``ce_id``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from typing import Final

from confluent_kafka import KafkaException

from headwater_producers.backpressure import Spool
from headwater_producers.border import translate
from headwater_producers.client import ANY_PARTITION, Client, in_event_loop
from headwater_producers.delivery import Delivery
from headwater_producers.envelope import Header
from headwater_producers.errors import ProducerClosed
from headwater_producers.metrics import SPOOL_BYTES, SPOOL_LIMIT, SPOOL_OLDEST, SPOOL_RECORDS
from headwater_producers.route import Route
from headwater_producers.spool.commit import GroupCommit
from headwater_producers.spool.delivery import SpooledDelivery
from headwater_producers.spool.drain import Drain
from headwater_producers.spool.entry import Entry
from headwater_producers.spool.slot import Slot
from headwater_schemas.errors import Overloaded

__all__ = ["Spooler"]

_TICK: Final = 0.02
_PATIENCE: Final = 1.0
_CATCH_UP_BYTES: Final = 256 * 1024
_HEADERS_BYTES: Final = 256
_PROBES: Final = 1000
_CATCH_UP_SECONDS: Final = 0.05

_log = logging.getLogger("headwater.producers")
_live: dict[int, Spooler] = {}


class Spooler:
    """Sends the events of one producer. Safe to share between threads; starts at ``start`` or at first use.

    Args:
        policy: where to spool, how much, and how long to wait for the broker first.
        client: the librdkafka producer; its delivery timeout must be endless.
    """

    def __init__(self, policy: Spool, client: Client) -> None:
        self._policy = policy
        self._client = client
        client.before_close = self.close
        client.degraded = self.is_degraded
        client.on_fork.append(self.after_fork)
        self._arm()

    def _arm(self) -> None:
        """The state of a spooler that has not started."""
        self._gate = threading.RLock()
        """Keeps the order: of events among threads, and across a change between direct and diverted."""
        self._outstanding: deque[SpooledDelivery] = deque()
        self._direct = True
        self._closed = False
        self._stopping = threading.Event()
        self._slot: Slot | None = None

    @property
    def degraded(self) -> bool:
        """Whether events go by way of the disk."""
        return not self._direct

    def is_degraded(self) -> bool:
        """``degraded``, to be asked later."""
        return self.degraded

    @property
    def records(self) -> int:
        """Events on disk that are not acknowledged."""
        return self._drain.records if self._slot is not None else 0

    @property
    def size(self) -> int:
        """Bytes of the spool on disk."""
        return self._drain.log.size if self._slot is not None else 0

    @property
    def limit(self) -> int:
        """Bytes that the spool may take on disk."""
        return self._policy.max_bytes

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest of them has been waiting."""
        oldest = self._drain.oldest_at if self._slot is not None else None
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    def start(self) -> None:
        """Claim a slot and drain what an earlier process left there. Blocks shortly; once is enough.

        Raises:
            SettingError: the folder cannot be used.
        """
        with self._gate:
            if self._slot is not None:
                return
            self._slot = Slot(self._policy.folder)
            self._drain = Drain(self._slot.path, self._client)
            self._commit = GroupCommit(self._drain.log, self._drain.moved)
            self._direct = not self._drain.records
            if self.degraded:
                _log.warning("%d events in the spool %s are sent first", self._drain.records, self._slot.path)
            self._thread = threading.Thread(target=self._run, name="headwater-spool-drain", daemon=True)
            self._thread.start()
            _live[id(self)] = self

    def send(
        self, route: Route, event_id: str, value: bytes | None, key: bytes | None, headers: list[Header]
    ) -> Delivery:
        """Send an event, one way or the other.

        Raises:
            Overloaded: the spool is full.
            SpoolUnavailable: the spool cannot be written.
            RecordTooLarge, ProducerClosed: as ``EventProducer.emit``.
        """
        delivery = SpooledDelivery(route, event_id, accepted_at=time.time(), event=(key, value, headers))
        with self._gate:
            if self._slot is None:
                self.start()
            if self._closed:
                raise ProducerClosed("the producer is closed; make a new one")
            if self._direct and self._send_directly(delivery, key, value, headers):
                self._outstanding.append(delivery)
            else:
                delivery.size = len(value or b"") + len(key or b"") + _HEADERS_BYTES
                self._check_room(delivery)
                self._commit.put(delivery)
        return delivery

    def flush(self, timeout: float) -> int:
        """Wait until every event so far is acknowledged, spooled or failed; gives how many are not. Blocks."""
        deadline = time.monotonic() + timeout
        while (pending := self.pending()) and (left := deadline - time.monotonic()) > 0:
            if self._direct:
                self._client.flush(min(_TICK, left))
            else:
                time.sleep(min(0.002, left))
        return pending

    def pending(self) -> int:
        """Events that are neither acknowledged nor spooled nor failed."""
        if self._slot is None:
            return 0
        with self._gate:
            self._forget_resolved()
            outstanding = sum(delivery.state == "pending" for delivery in self._outstanding)
            return outstanding + (0 if self._commit.settled else max(1, len(self._commit)))

    async def drain(self) -> None:
        """Wait until an emit finds room: in the queue to the broker, or in the spool while the broker is away."""
        while not (self._client.has_room() if self._direct else self._used() < self._policy.max_bytes):
            self._client.poll()
            await asyncio.sleep(_TICK)

    def close(self, timeout: float) -> int:
        """Flush and, if the broker answers, send what is on disk; write what is still unacknowledged to disk; stop.

        The client calls it before it gives up what is in flight. Blocks. Gives how many events could not be written.
        """
        if self._slot is None or self._closed:
            return 0
        deadline = time.monotonic() + timeout
        self.flush(timeout)
        while self._drain.alive and self._drain.records and (left := deadline - time.monotonic()) > 0:
            self._client.flush(min(_TICK, left))
        with self._gate:
            self._closed = True
            self._divert("the producer closes")
        self._commit.stop()
        self._stopping.set()
        self._thread.join()
        left = self._drain.records
        self._drain.close()
        self._slot.close()
        _live.pop(id(self), None)
        if left:
            _log.warning("%d events stay in the spool %s for the next start", left, self._slot.path)
        return len(self._commit)

    def after_fork(self) -> None:
        """Start anew in a forked child, with another slot; the slot of the parent stays the parent's alone."""
        if self._slot is not None:
            self._slot.close()
        _live.pop(id(self), None)
        closed = self._closed
        self._arm()
        self._closed = closed

    def _send_directly(
        self, delivery: SpooledDelivery, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> bool:
        """Whether librdkafka took it. A full queue of a broker that answers is waited for, but not in an event loop."""
        deadline = 0.0
        while True:
            try:
                self._client.produce(delivery.topic, value, key, ANY_PARTITION, delivery.settle, None, 0, headers)
            except BufferError:
                now = time.monotonic()
                deadline = deadline or now + (0.0 if in_event_loop() else min(_PATIENCE, self._policy.after))
                if now >= deadline:
                    self._divert("the queue to the broker is full")
                    return False
                self._client.serve(_TICK)
            except KafkaException as exc:
                raise translate(exc.args[0], delivery.topic) from exc
            else:
                return True

    def _check_room(self, delivery: SpooledDelivery) -> None:
        """A failing disk and a full spool are said at once."""
        refused = self._commit.refusing()
        if refused is not None:
            raise refused
        if self._used() + delivery.size > self._policy.max_bytes:
            raise Overloaded(
                f"the broker is away and the spool is full ({self._policy.max_bytes} bytes): slow down, or raise "
                "HEADWATER_PRODUCER_SPOOL_BYTES"
            )

    def _used(self) -> int:
        return self._drain.log.size + self._commit.queued_bytes

    def _divert(self, why: str) -> None:
        """From now on by way of the disk; what is unacknowledged goes there first. Under the gate."""
        if not self._direct:
            return
        self._direct = False
        self._drain.alive = False
        moved = [delivery for delivery in self._outstanding if delivery.state == "pending"]
        self._outstanding.clear()
        for delivery in moved:
            delivery.entry = Entry(delivery.topic, delivery.accepted_at)
            self._commit.put(delivery)
        if not self._closed:
            _log.warning("events go to the spool %s from now on: %s", self._policy.folder, why)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except OSError as exc:
                _log.critical("the spool cannot be read or written, what is in it waits: %s", exc)
                self._stopping.wait(_PATIENCE)

    def _turn(self) -> None:
        if self._direct:
            self._watch()
            self._stopping.wait(_TICK)
        elif not self._may_hand_over() or not (self._drain.hand_over(self._wanted) or self._return_to_direct()):
            self._client.poll()
            self._stopping.wait(_TICK)
        self._drain.sweep()

    def _may_hand_over(self) -> bool:
        """Not before the moved ones stand in the log; and while the broker is away, only a few, to see it come back."""
        return not self._commit.moving and (self._drain.alive or len(self._drain.in_flight) < _PROBES)

    def _wanted(self) -> bool:
        """Whether to wait for room in the queue: what is swept meanwhile is freed on disk."""
        self._drain.sweep()
        return not self._stopping.is_set()

    def _watch(self) -> None:
        """Divert when the broker has not acknowledged an event for too long."""
        with self._gate:
            self._forget_resolved()
            if self._outstanding and time.time() - self._outstanding[0].accepted_at > self._policy.after:
                self._divert(f"no acknowledgement for {self._policy.after:g} s{self._client.last_seen()}")

    def _forget_resolved(self) -> None:
        while self._outstanding and self._outstanding[0].state != "pending":
            self._outstanding.popleft()

    def _return_to_direct(self) -> bool:
        if not self._drain.alive or self._drain.behind > _CATCH_UP_BYTES or not self._client.has_room():
            return False
        with self._gate:  # emits wait for it, so not for long: there is another time
            deadline = time.monotonic() + _CATCH_UP_SECONDS
            while not self._commit.settled and time.monotonic() < deadline:
                time.sleep(0.0005)
            while self._drain.hand_over(_without_waiting):
                pass
            if not self._commit.settled or self._drain.position < self._drain.log.end:
                return False
            self._direct = True
        _log.warning("the broker answers: events go straight to it again")
        return True


def _without_waiting() -> bool:
    return False


def _sum(of: str) -> float:
    return float(sum(getattr(spooler, of) for spooler in tuple(_live.values())))


SPOOL_RECORDS.set_function(lambda: _sum("records"))
SPOOL_BYTES.set_function(lambda: _sum("size"))
SPOOL_LIMIT.set_function(lambda: _sum("limit"))
SPOOL_OLDEST.set_function(lambda: max((spooler.oldest_seconds for spooler in tuple(_live.values())), default=0.0))
