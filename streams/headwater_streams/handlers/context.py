"""What a handler is told about the record it is given, and what it can do besides returning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from headwater_schemas import wire
from headwater_schemas.errors import HeadwaterError, UsageError
from headwater_streams.handlers.failure import header
from headwater_streams.handlers.message import Headers, Message

if TYPE_CHECKING:
    from headwater_streams.handlers.emitter import Emitter
    from headwater_streams.handlers.worker import Worker

__all__ = ["EventContext"]


class EventContext:
    """One record's surroundings. Everything is read on demand; making one costs next to nothing.

    Attributes:
        attempt: how often this record failed before and was tried again from a delay tier; 0 at first.
    """

    __slots__ = ("_emitter", "_kept", "_worker", "attempt", "message", "refused", "unacked")
    _kept: list[Callable[[], None]]  # made at the first ``keep``: most records emit nothing, or are not transactional

    def __init__(self, message: Message, emitter: Emitter, attempt: int = 0, worker: Worker | None = None) -> None:
        self.message = message
        self.attempt = attempt
        self.unacked = 0
        self.refused: HeadwaterError | None = None
        self._emitter = emitter
        self._worker = worker

    @property
    def topic(self) -> str:
        """The topic the record was first written to (also when it comes from a retry tier)."""
        original = self._header(wire.HW_ORIGINAL_TOPIC)
        if original is not None:
            return original.decode()
        return self.message.topic()

    @property
    def partition(self) -> int:
        """Its partition; a retry keeps it."""
        return self.message.partition()

    @property
    def offset(self) -> int:
        """Its offset in the topic it was first written to."""
        original = self._header(wire.HW_ORIGINAL_OFFSET)
        return self.message.offset() if original is None else int(original)

    @property
    def key(self) -> str | None:
        """The business key. Bytes that are not UTF-8 come with their stray bytes as surrogates."""
        raw = self.message.key()
        return None if raw is None else raw.decode("utf-8", "surrogateescape")

    @property
    def timestamp(self) -> float:
        """When the record was first written, in seconds since the epoch."""
        original = self._header(wire.HW_ORIGINAL_TIMESTAMP)
        return (self.message.timestamp()[1] if original is None else int(original)) / 1000

    @property
    def headers(self) -> Mapping[str, bytes]:
        """The record's headers; of a repeated name the last."""
        return dict(self.message.headers() or ())

    @property
    def id(self) -> str:
        """The event's id (``ce_id``), or ``topic/partition/offset`` where the sender gave none.

        The same for every repetition of the record, so it is what to deduplicate effects by.
        """
        given = self._header(wire.CE_ID)
        if given is not None:
            return given.decode("utf-8", "replace")
        return f"{self.topic}/{self.partition}/{self.offset}"

    def emit(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Send an event whose delivery is part of this record's settling.

        Returns at once. The record counts as settled only when the broker has acknowledged what was emitted, so a
        crash in between repeats both. Events of one key arrive in the order emitted. ``None`` as value is a
        tombstone. The trace context of this record is passed on.

        Raises:
            UnknownTopic: the topic is not in the catalogue.
            InvalidValue: the value does not match the topic's schema; names the field.
            Overloaded: too much awaits acknowledgement; raise it on, and the record is tried again in place.
        """
        self._emitter.emit(self, topic, value, key=key, headers=headers)

    def keep(self, send: Callable[[], None]) -> None:
        """For the engine: what is to be sent when the handler has returned."""
        if not hasattr(self, "_kept"):
            self._kept = []
        self._kept.append(send)

    @property
    def kept(self) -> list[Callable[[], None]]:
        """For the engine: what was kept."""
        return getattr(self, "_kept", [])

    def dependency(self, name: str) -> AbstractAsyncContextManager[None]:
        """Around calls of something that may be down: ``async with event.dependency("payments"): …``.

        An exception within is the dependency's, not the record's: the record waits and is tried again in place, uses
        up no attempt and never dies of it. So is the end of the handler's ``timeout`` while it waits in here. After
        some in a row only one record every five seconds tries, until one succeeds. Only handlers that use the same
        name wait.

        What decides about the record passes as it is: ``DeadLetter``, ``RetryLater``, what ``Retry(never=…)`` names,
        and errors that no waiting mends (``UsageError``, ``BadRecord``). Put nothing else inside that can fail because
        of the record itself, such as a refusal that the client raises as an exception of its own: it would wait for
        ever. Where calls answer so, name the exceptions of an outage in ``depends_on`` instead.
        """
        if self._worker is None:
            raise UsageError("batch handlers have no dependencies: raise an Unavailable error instead")
        return self._worker.dependencies.guard(name, self._worker)

    def _header(self, name: str) -> bytes | None:
        return header(self.message.headers(), name)
