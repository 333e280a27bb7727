"""Change events as the apply takes them, its outcomes, and the log to which a view writes."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Literal, NamedTuple, Protocol

import msgspec

from headwater_cache.versions import Version

__all__ = ["ApplyOutcome", "ApplyResult", "Change", "ChangeLog", "Position"]

ApplyOutcome = Literal[
    "applied",  # stored over something older
    "created",  # stored on an absent, fenced or negative key under a lease
    "refreshed",  # same version, new expiry
    "fenced",  # the key is known to be newer than the cache; the next read decides at the source, or the event fills it
    "stale",  # older than what is there; nothing changed
    "equal",  # already there; nothing changed
    "lease_lost",  # a load whose lease was voided; nothing changed
    "conflict",  # another version domain was there
    "superseded",  # a newer change of the same key stood in the same batch
]


class Position(NamedTuple):
    """Where a change stood in its log."""

    topic: str
    partition: int
    offset: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """One change of one key. ``value`` is the encoded payload, ``None`` a delete.

    Args:
        key: the business key.
        version: see ``log_version`` and ``version``.
        value: payload as the value codec of the cache encodes it; it is stored as it is.
        schema_id: of the payload, 0 = none.
        position: where it stood; from it the watermarks are kept.
        occurred_at: seconds since the epoch, for the lag metric; 0 = unknown.
    """

    key: str
    version: Version
    value: bytes | None
    schema_id: int = 0
    position: Position | None = None
    occurred_at: float = 0.0


class ApplyResult(NamedTuple):
    """What became of one change."""

    key: str
    version: Version
    outcome: ApplyOutcome


class ChangeLog(Protocol):
    """The compacted change topic, as a view writes to it. The streams package provides the one on Kafka."""

    def append(self, entity: str, key: str, value: bytes | None, schema_id: int) -> Future[Version]:
        """Hand one change over; does not block on the broker.

        The future resolves to ``log_version(topic epoch, offset)`` once every in-sync replica has it (acks=all), or to
        an ``Unavailable``. Until then nothing is promised: after a failure the change may or may not be in the log.
        """
        ...
