"""The client: one librdkafka producer, polled by whoever is there.

librdkafka hands delivery reports to the thread that polls, one at a time, taking the interpreter lock for each. A
thread that only polls therefore starves beside a busy one (300 reports a second were seen), so reports are served where
the work is: ``emit`` polls now and then, an event loop in which somebody awaits polls from a timer, and a background
thread polls only while nobody else does. One thread polls at a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from headwater_producers.backpressure import Block
from headwater_producers.breaker import Breaker
from headwater_producers.complaints import Complaints
from headwater_producers.delivery import Waiter, wake_all
from headwater_producers.envelope import Header
from headwater_producers.errors import ProducerClosed
from headwater_producers.process import unwatch, watch
from headwater_producers.route import Route
from headwater_producers.settings import ProducerSettings
from headwater_schemas.admin import refusal
from headwater_schemas.clock import SystemClock
from headwater_schemas.errors import BrokerUnavailable, Overloaded, SettingError

__all__ = ["ANY_PARTITION", "Client", "OnDelivery", "in_event_loop"]

OnDelivery = Callable[[Any, Any], None]
"""librdkafka's delivery report: ``(KafkaError | None, Message)``."""

ANY_PARTITION: Final = -1
"""Let the partitioner choose."""

_TICK: Final = 0.002
_STAND_ASIDE: Final = 0.02
_IDLE: Final = 0.5
_SLICE: Final = 0.1

_log = logging.getLogger("headwater.producers")
_librdkafka = logging.getLogger("headwater.producers.librdkafka")
# A broker that has just started gives out no producer ids for a moment; librdkafka warns, and asks again by itself.
_librdkafka.addFilter(lambda record: not ("GETPID" in record.getMessage() and "retrying" in record.getMessage()))


class Client:
    """A librdkafka producer with its queue, its reports and its end. Safe to share between threads.

    It starts at ``start`` or at first use.
    """

    def __init__(self, settings: ProducerSettings) -> None:
        self.settings = settings
        self.routes: dict[str, Route] = {}
        self.before_close: Callable[[float], object] = self.flush
        """What ``close`` does with its timeout, before it gives up what is left."""
        self.on_fork: list[Callable[[], None]] = []
        """Called in a forked child, before anything is sent there."""
        self.degraded: Callable[[], bool] = self._broken
        """Whether the broker is away, and events go another way or none."""
        self._closed = False
        self._high_water = settings.queue_records * 3 // 4
        self._arm()

    def _arm(self) -> None:
        """The state of a client that has not started."""
        self.woken: list[Waiter] = []
        self.last_error: KafkaError | None = None
        self.asleep = False
        self.produce: Callable[..., None] = self._start_and_produce
        """librdkafka's own, bare: ``(topic, value, key, partition, on_delivery, None, timestamp, headers)``, all by
        place (names cost a tenth of a microsecond each). ``BufferError`` when the queue is full."""
        self._producer: Producer | None = None
        self._starting = threading.Lock()
        self._polling = threading.Lock()
        self._polls = 0
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._wake = threading.Event()
        self._complaints = Complaints(SystemClock())
        fail_fast = self.settings.fail_fast
        self.breaker = None if fail_fast is None else Breaker(fail_fast, SystemClock())
        self._thread = threading.Thread(target=self._poll_while_idle, name="headwater-producer", daemon=True)

    def __len__(self) -> int:
        """Records not yet acknowledged or failed, and log lines and errors of librdkafka that nobody has served yet;
        ``pending`` leaves these out."""
        producer = self._producer
        return 0 if producer is None else len(producer)

    def pending(self) -> int:
        """Records not yet acknowledged or failed. Serves reports; approximate while another thread does."""
        if not self._polling.acquire(timeout=_TICK):
            return len(self)
        try:
            # What is counted and cannot be served is on its way.
            while self._producer is not None and (counted := len(self._producer)):
                if not self._served(self._producer.poll, 0.0):
                    return counted
            return 0
        finally:
            self._polling.release()

    def start(self) -> None:
        """Make the librdkafka producer; connecting is its own business and takes place later. Once is enough.

        Raises:
            SettingError: librdkafka refuses the configuration.
            ProducerClosed: it was closed.
        """
        with self._starting:
            if self._closed:
                raise ProducerClosed("the producer is closed; make a new one")
            if self._producer is None:
                config = self.settings.client_config() | {
                    "error_cb": self._on_error,
                    "logger": _librdkafka,
                    "log_level": 5,
                }
                try:
                    self._producer = Producer(config)
                except (KafkaException, ValueError, TypeError) as exc:
                    raise SettingError(f"librdkafka refuses the settings: {exc}") from exc
                self.produce = self._producer.produce
                self._thread.start()
                watch(self)

    def wake(self) -> None:
        """There is something to poll for again. Callers look at ``asleep`` first."""
        self._wake.set()

    def produce_when_room(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[Header],
        partition: int,
        on_delivery: OnDelivery | None,
    ) -> None:
        """``produce`` for a full queue, by the back-pressure policy of the settings.

        Raises:
            Overloaded: there was no room in time, or the policy or a running event loop forbids to wait.
        """
        policy = self.settings.back_pressure
        patience = policy.seconds if isinstance(policy, Block) and not in_event_loop() else 0.0
        deadline = time.monotonic() + patience
        while True:
            self.serve(max(0.0, min(_SLICE, deadline - time.monotonic())))
            try:
                return self.produce(topic, value, key, partition, on_delivery, None, 0, headers)
            except BufferError as exc:
                if time.monotonic() >= deadline:
                    self._high_water = min(self._high_water, len(self) // 2)
                    raise self._overloaded(patience) from exc

    def poll(self) -> None:
        """Serve the delivery reports that are there, in this thread. Never blocks."""
        self.serve(0.0)

    def serve(self, timeout: float) -> None:
        """Serve delivery reports, waiting up to ``timeout`` seconds for one. Blocks."""
        self._polls += 1
        self._serve(timeout)

    def serve_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Poll from a timer of ``loop`` as long as records are on the way. Call it in the loop."""
        if loop not in self._loops:
            self._loops.add(loop)
            loop.call_later(_TICK, self._tick, loop)

    async def drain(self) -> None:
        """Wait until the queue has room for a good many records."""
        self.poll()
        while not self.has_room():
            await asyncio.sleep(_TICK)
            self.poll()
        self._high_water = self.settings.queue_records * 3 // 4

    def has_room(self) -> bool:
        """Whether the queue has room for a good many records."""
        return len(self) <= self._high_water

    def last_seen(self) -> str:
        """The last trouble that librdkafka reported, as the end of a sentence."""
        return f"; last seen from the broker: {self.last_error.str()}" if self.last_error else ""

    def flush(self, timeout: float) -> int:
        """Wait until every record is acknowledged or failed; gives how many are not after ``timeout`` seconds. Blocks.

        Does not wait for lingering batches to fill.
        """
        deadline = time.monotonic() + timeout
        while self._producer is not None and len(self._producer) and (left := deadline - time.monotonic()) > 0:
            with self._polling:
                self._served(self._producer.flush, min(_SLICE, left))
        return self.pending()

    def close(self, timeout: float) -> Counter[str]:
        """Flush (see ``before_close``), give up what is left, stop. Gives how many records were given up, by topic;
        their deliveries fail.

        Blocks up to ``timeout`` seconds and a little more.
        """
        try:
            self.before_close(timeout)
        finally:
            with self._starting, self._polling:
                given_up = self._stop()
        if self._thread.is_alive():
            self._wake.set()
            self._thread.join()
        return given_up

    def after_fork(self) -> None:
        """Start anew in a forked child. librdkafka's threads stayed in the parent, so that even freeing what was
        inherited would hang: it is kept for good."""
        if self._producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
        for route in self.routes.values():
            route.orphaned = True
        self.routes.clear()
        self._arm()
        for renew in self.on_fork:
            renew()

    def _start_and_produce(self, *record: Any) -> None:
        self.start()
        self.produce(*record)

    def _serve(self, timeout: float) -> None:
        """Poll, unless another thread polls and goes on doing so for ``timeout`` seconds."""
        if self._polling.acquire(timeout=timeout):
            try:
                if self._producer is not None:
                    self._served(self._producer.poll, timeout)
            finally:
                self._polling.release()

    def _served(self, call: Callable[[float], int], timeout: float) -> int:
        """Let librdkafka call its reports, then wake who waits, count, complain. Under the polling lock. Gives what
        ``call`` gave."""
        answer = 1
        try:
            answer = call(timeout)
        except Exception:  # whatever an ``on_delivery`` of ``emit_raw`` raised; it must not hit whoever polls
            _log.exception("the handler of a delivery report raised; the other reports go on")
        self._report()
        return answer

    def _report(self) -> None:
        if self.woken:
            woken, self.woken = self.woken, []
            wake_all(woken)
        routes = tuple(self.routes.values())
        if self.breaker is not None:
            self.breaker.heard |= any(route.acked for route in routes)
            if self.breaker.look(len(self)):
                self._switch(self.breaker)
        for route in routes:
            if failures := route.report():
                self._complaints.add(route.topic, failures)

    def _broken(self) -> bool:
        return self.breaker is not None and self.breaker.open

    def _switch(self, breaker: Breaker) -> None:
        if self._producer is None or self._closed:
            return
        if breaker.open:
            self.produce = self._produce_if_idle
            _log.error("no acknowledgement for %g s%s: emits fail at once", self.settings.fail_fast, self.last_seen())
        else:
            self.produce = self._producer.produce
            _log.warning("the broker answers again")

    def _produce_if_idle(self, *record: Any) -> None:
        """``produce`` while the breaker is open: what waits is the probe; when nothing does, this record is."""
        producer = self._producer
        if producer is None or len(producer):
            raise BrokerUnavailable(
                f"the broker has acknowledged nothing for {self.settings.fail_fast:g} s"
                f"{self.last_seen()}; not queued (HEADWATER_PRODUCER_FAIL_FAST)"
            )
        producer.produce(*record)

    def _stop(self) -> Counter[str]:
        producer = self._producer
        given_up: Counter[str] = Counter()
        self._closed = True
        self.produce = _closed
        if producer is None:
            return given_up
        if len(producer):
            producer.purge()
            before = self._failed_so_far()
            self._served(producer.flush, 1.0)  # nothing is sent any more: only the reports of what was purged
            given_up = self._failed_so_far() - before
        self._complaints.close()
        self._producer = None
        unwatch(self)
        return given_up

    def _failed_so_far(self) -> Counter[str]:
        return Counter({route.topic: route.failed_so_far for route in self.routes.values()})

    def _poll_while_idle(self) -> None:
        while not self._closed:
            if not len(self):
                self._sleep()
            seen = self._polls
            time.sleep(_TICK)
            if seen == self._polls:
                self._serve(0.0)
            else:
                time.sleep(_STAND_ASIDE)

    def _sleep(self) -> None:
        self._wake.clear()
        self.asleep = True
        # A record that came before ``asleep`` was set did not wake us: look again.
        if not len(self) and not self._closed:
            self._wake.wait(_IDLE)
        self.asleep = False

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.poll()
        if len(self):
            loop.call_later(_TICK, self._tick, loop)
        else:
            self._loops.discard(loop)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self.last_error is None:  # says less than what came before
            self.last_error = error
        if (refused := refusal(error)) is not None:  # librdkafka goes on trying, and records time out meanwhile
            _log.error("%s", refused)

    def _overloaded(self, waited: float) -> Overloaded:
        limits = f"{self.settings.queue_records} records or {self.settings.queue_bytes} bytes"
        advice = "in a coroutine `await producer.drain()` between emits" if in_event_loop() else "slow down"
        return Overloaded(f"the producer's queue ({limits}) is full, waited {waited:g} s{self.last_seen()}: {advice}")


def _closed(*_record: Any) -> None:
    raise ProducerClosed("the producer is closed; make a new one")


def in_event_loop() -> bool:
    """Whether this thread runs an event loop now, so that it must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
