"""Emitting from a handler: events whose acknowledgement is part of the record's settling."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

from faust.types import TP

from headwater_schemas.errors import HeadwaterError
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.message import Headers, Message

__all__ = ["Emitter", "Outlet", "Prepare"]

_AGAIN = 0.005  # seconds until a shut outlet is asked again

OnDelivery = Callable[[HeadwaterError | None, Message], None]

Prepare = Callable[[EventContext, str, Any, "Headers | None"], "tuple[bytes | None, Headers]"]
"""Encodes a value for a topic and makes its headers."""


class Outlet(Protocol):
    """Where records leave: librdkafka in production, a list in tests."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Hand a record over; see ``Sender.send``. Order per partition is the order of the calls."""
        ...


class Emitter:
    """One runner's emitting, and its account of what is not acknowledged.

    Args:
        outlet: where records go.
        prepare: encodes and adds headers.
        on_settled: called when a record whose handler had returned has its last acknowledgement.
        on_refused: called when the broker refused for good what a record emitted.
        admits: of a transactional outlet, whether so many records can be sent now. Then nothing is sent before the
            handler has returned, and all that a record emitted is sent in one transaction. ``None``: send at once.
    """

    def __init__(
        self,
        outlet: Outlet,
        prepare: Prepare,
        on_settled: Callable[[], None],
        on_refused: Callable[[EventContext, TP, HeadwaterError], None],
        admits: Callable[[int], bool] | None = None,
    ) -> None:
        self.outlet = outlet
        self._prepare = prepare
        self._on_settled = on_settled
        self._on_refused = on_refused
        self._admits = admits
        self._owing: dict[EventContext, TP] = {}
        self._deferred: deque[EventContext] = deque()  # returned, and nothing sent yet
        self._timer: asyncio.TimerHandle | None = None

    def emit(
        self, event: EventContext, topic: str, value: Any, *, key: str | bytes | None, headers: Headers | None
    ) -> None:
        """See ``EventContext.emit``."""
        encoded, all_headers = self._prepare(event, topic, value, headers)

        def delivered(error: HeadwaterError | None, message: Message) -> None:
            event.unacked -= 1
            if error is not None:
                tp = self._owing.pop(event, None)
                if tp is not None:
                    self._on_refused(event, tp, error)
                else:
                    event.refused = error  # the handler still runs: it learns when it returns
            elif event.unacked == 0 and self._owing.pop(event, None) is not None:
                self._on_settled()

        raw_key = key.encode() if isinstance(key, str) else key
        if self._admits is None:
            self.outlet.send(topic, encoded, raw_key, all_headers, -1, delivered)
        else:
            event.keep(lambda: self.outlet.send(topic, encoded, raw_key, all_headers, -1, delivered))
        event.unacked += 1

    def settle_after(self, event: EventContext, tp: TP) -> None:
        """The handler has returned; the record counts as unsettled until its emits are acknowledged."""
        if event.refused is not None:
            self._on_refused(event, tp, event.refused)
            return
        self._owing[event] = tp
        if self._admits is not None:
            self._deferred.append(event)
            if self._timer is None:  # else those before it wait, and it goes behind them
                self._send_deferred()

    async def settle_batch(self, events: Collection[EventContext], tp: TP) -> None:
        """``settle_after`` for the records of one batch: what all of them emitted is sent in one transaction."""
        if self._admits is not None:
            while not self._admits(sum(len(event.kept) for event in events)):  # noqa: ASYNC110 - tells nobody
                await asyncio.sleep(_AGAIN)
        for event in events:
            self.settle_after(event, tp)

    def _send_deferred(self) -> None:
        self._timer = None
        assert self._admits is not None
        while self._deferred:
            event = self._deferred[0]
            tp = self._owing.get(event)
            if tp is not None and not self._admits(len(event.kept)):
                self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._send_deferred)
                return
            self._deferred.popleft()
            if tp is not None:
                self._send_kept(event, tp)

    def _send_kept(self, event: EventContext, tp: TP) -> None:
        try:
            for send in event.kept:
                send()
        except HeadwaterError as exc:  # the client itself refuses it: too large
            del self._owing[event]
            self._on_refused(event, tp, exc)

    @property
    def owing(self) -> int:
        """Records that wait for acknowledgements."""
        return len(self._owing)

    def owes(self, partitions: Collection[TP]) -> bool:
        """Whether a record of these partitions waits for acknowledgements."""
        return any(tp in partitions for tp in self._owing.values())

    def forget(self, partitions: Collection[TP]) -> None:
        """Stop caring about records of partitions that are no longer ours."""
        for event in [event for event, tp in self._owing.items() if tp in partitions]:
            del self._owing[event]

    def unsettled(self) -> Iterator[tuple[TP, int]]:
        """Partition and offset of each record that waits for acknowledgements."""
        for event, tp in self._owing.items():
            yield tp, event.message.offset()
