"""What ``emit`` gives back: the record's way to the broker, to be waited for by threads and coroutines alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from headwater_producers.errors import DeliveryPending
from headwater_schemas.errors import BrokerUnavailable, HeadwaterError

if TYPE_CHECKING:
    from headwater_producers.route import Route

__all__ = ["Delivery", "DeliveryState", "Waiter", "wake_all"]

DeliveryState = Literal["pending", "acked", "spooled", "failed"]

Waiter = threading.Event | asyncio.Future[None]

_registering = threading.Lock()


class Delivery(msgspec.Struct, gc=False, eq=False):
    """One emitted event on its way. Only a resolved delivery is a promise; a pending one may still be lost.

    A msgspec struct, because one is made per event: it costs a third of a Python object, the garbage collector does
    not walk it, and nothing to wait on exists until somebody waits.
    """

    _route: Route
    id: str
    """The event's ``ce_id``."""
    state: DeliveryState = "pending"
    """``acked``: every in-sync replica has it. ``spooled``: it is on disk and will be sent. ``failed``: see ``error``;
    the broker may yet have it."""
    partition: int | None = None
    """Where the record stands, once acked."""
    offset: int | None = None
    """Its position there, once acked."""
    error: HeadwaterError | None = None
    """Why it failed."""
    _waiters: list[Waiter] | None = None

    @property
    def topic(self) -> str:
        """The topic it was emitted to."""
        return self._route.topic

    def done(self) -> bool:
        """Whether it is resolved, one way or the other. Never blocks."""
        return self.state != "pending"

    def result(self, timeout: float | None = None) -> Self:
        """Wait until the event is acknowledged, or safe in the spool; gives the delivery itself.

        Blocks the calling thread: in a coroutine write ``await delivery``.

        Args:
            timeout: seconds; ``None`` waits as long as the delivery timeout of the producer lets it take.

        Raises:
            DeliveryPending: not resolved in ``timeout``; it may still be delivered.
            BrokerUnavailable: no acknowledgement within the producer's delivery timeout, or before it closed.
            NotPermitted, UnknownTopic, RecordTooLarge, UsageError: the broker refused the record.
            SpoolUnavailable: the broker is away, and the spool could not be written.
        """
        if self.state == "pending":
            woken = threading.Event()
            if self._wait_with(woken) and not woken.wait(timeout):
                raise DeliveryPending(f"event {self.id} to {self.topic!r} is not acknowledged after {timeout} s")
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait without blocking the running loop; raises as ``result``. Cancelling the wait does not undo the emit."""
        if self.state == "pending":
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            if self._wait_with(future):
                self._route.client.serve_from(loop)
                yield from future
        return self._outcome()

    def settle(self, error: Any, message: Any) -> None:
        """librdkafka's delivery report. Called once, by whichever thread polls."""
        route = self._route
        if error is None:
            self.partition = message.partition()
            self.offset = message.offset()
            self.state = "acked"
            route.acked += 1
            route.last_acked = message
        else:
            self.error = route.failed(error)
            self.state = "failed"
        waiters = self._waiters
        if waiters is not None:
            self._waiters = None
            route.client.woken.extend(waiters)

    def _resolve_as(self, state: DeliveryState, error: HeadwaterError | None) -> list[Waiter]:
        """Resolve it, unless it is; gives who is to be woken."""
        if self.state != "pending":
            return []
        self.error = error
        self.state = state
        waiters, self._waiters = self._waiters, None
        return waiters or []

    def _wait_with(self, waiter: Waiter) -> bool:
        """Whether there is something to wait for. ``settle`` sets the state before it looks for waiters, and here the
        state is read after the waiter is put down: one of the two sees the other."""
        if self._route.orphaned:
            raise BrokerUnavailable(f"event {self.id} was emitted before a fork: only the parent knows its delivery")
        with _registering:
            waiters = self._waiters or []
            waiters.append(waiter)
            self._waiters = waiters
        return self.state == "pending"

    def _outcome(self) -> Self:
        if self.error is not None:
            raise self.error
        return self


def wake_all(woken: list[Waiter]) -> None:
    """Wake threads at once and coroutines in one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in woken:
        if isinstance(waiter, threading.Event):
            waiter.set()
        else:
            by_loop.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, futures in by_loop.items():
        # A closed loop has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
