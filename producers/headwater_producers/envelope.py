"""The headers of an event: CloudEvents attributes (Kafka binding, binary mode) and the W3C trace context.

The event id is a random prefix of 80 bits, drawn per producer and again after a fork, then a counter. Two events have
the same id only if two producers drew the same prefix: for a million producers the odds are below 10^-12. It costs a
tenth of a ``uuid4``. An id says nothing about order; within one producer its counter grows.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from headwater_producers.tracing import current_traceparent
from headwater_schemas.clock import Clock
from headwater_schemas.errors import UsageError
from headwater_schemas.wire import (
    CE_ID,
    CE_SOURCE,
    CE_SPECVERSION,
    CE_TIME,
    CE_TYPE,
    CONTENT_TYPE,
    CONTENT_TYPE_AVRO,
    SPECVERSION,
    TRACEPARENT,
)

__all__ = ["Envelope", "Header", "rfc3339"]

Header = tuple[str, str | bytes | None]

_SPECVERSION: Final = (CE_SPECVERSION, SPECVERSION)
_CONTENT_TYPE: Final = (CONTENT_TYPE, CONTENT_TYPE_AVRO)
_ARGUMENTS: Final = {
    CE_ID: "id=",
    CE_TIME: "time=",
    TRACEPARENT: "traceparent=",
    CE_SOURCE: "source= of the producer",
    CE_TYPE: "the topic",
    CE_SPECVERSION: "nothing",
    CONTENT_TYPE: "nothing",
}
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class Envelope:
    """Makes the headers of the events of one source; may be shared between threads."""

    __slots__ = ("_clock", "_from", "_now", "_prefix", "_source", "_time", "_until", "numbers")

    def __init__(self, source: str, clock: Clock) -> None:
        if not source:
            raise UsageError("source is empty: pass the name of the service, e.g. source='orders-service'")
        _check_text("source", source)
        self._source = (CE_SOURCE, source)
        self._clock = clock
        self._now = clock.time
        self.numbers = itertools.count(1)
        self.renew()
        self._time = (CE_TIME, "")
        self._from = self._until = 0.0

    def renew(self) -> None:
        """Draw another prefix: after a fork two processes would go on with the same one."""
        self._prefix = secrets.token_hex(10) + "-"

    def new_id(self, number: int) -> str:
        """The id of this producer's event ``number``."""
        return f"{self._prefix}{number}"

    def headers(self, event_id: str, ce_type: Header) -> list[Header]:
        """The headers of an event that happens now."""
        now = self._now()
        if not self._from <= now < self._until:
            self._turn(now)
        headers: list[Header] = [
            _SPECVERSION,
            (CE_ID, event_id),
            self._source,
            ce_type,
            self._time,
            _CONTENT_TYPE,
        ]
        traceparent = current_traceparent()
        if traceparent is not None:
            headers.append((TRACEPARENT, traceparent))
        return headers

    def custom_headers(
        self,
        event_id: str,
        ce_type: Header,
        time: datetime | float | None,
        traceparent: str | None,
        extra: Mapping[str, str | bytes | None] | None,
    ) -> list[Header]:
        """``headers`` with what the caller of ``emit`` gave: a time, a trace context, headers of its own.

        Raises:
            UsageError: one of them is malformed, or names a header that has an argument of its own.
        """
        if not isinstance(event_id, str) or not event_id:
            raise UsageError(f"id={event_id!r} must be a text that is not empty")
        _check_text("id", event_id)
        headers = self.headers(event_id, ce_type)
        if time is not None:
            headers[4] = (CE_TIME, rfc3339(time))
        if traceparent is not None:
            if _TRACEPARENT.fullmatch(traceparent) is None:
                raise UsageError(
                    f"traceparent={traceparent!r} is not a W3C traceparent: pass '00-<32 hex>-<16 hex>-01'"
                )
            headers[6:] = [(TRACEPARENT, traceparent)]
        for name, content in (extra or {}).items():
            if name in _ARGUMENTS:
                raise UsageError(f"header {name!r} is ours: pass {_ARGUMENTS[name]} instead")
            if not isinstance(name, str) or not isinstance(content, str | bytes | None):
                raise UsageError(f"header {name!r}: {content!r} must be a text, bytes or None, and its name a text")
            _check_text("header name", name)
            if isinstance(content, str):
                _check_text(f"header {name!r}", content)
            headers.append((name, content))
        return headers

    def _turn(self, now: float) -> None:
        """A new millisecond: format it once for all events in it. The bounds follow the text, so that a thread that
        comes between sees the old bounds and formats for itself."""
        milliseconds = int(now * 1000)
        self._time = (CE_TIME, rfc3339(milliseconds / 1000))
        self._from = milliseconds / 1000
        self._until = (milliseconds + 1) / 1000


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{what} {text!r} has no UTF-8 form (a lone surrogate)") from exc


def rfc3339(time: datetime | float) -> str:
    """A UTC timestamp, e.g. ``2026-11-24T09:30:00.250Z``; microseconds only when there are some.

    Raises:
        UsageError: a datetime without a time zone, or seconds out of range.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise UsageError(f"time={time.isoformat()} has no time zone: pass e.g. datetime.now(UTC)")
        moment = time.astimezone(UTC)
    else:
        try:
            moment = datetime.fromtimestamp(time, UTC)
        except (ValueError, OverflowError, OSError, TypeError) as exc:
            raise UsageError(f"time={time!r} is not seconds since the epoch, nor a datetime") from exc
    timespec = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")
