"""What is known of one key, for a person who wonders why it reads as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from headwater_cache.continuity import watermarks_of
from headwater_cache.entry import HEADER_SIZE, Entry, unpack
from headwater_cache.reads import Verdict, judge
from headwater_cache.space import Space
from headwater_cache.steps import Batch, Step
from headwater_cache.tags import holds
from headwater_cache.versions import VersionToken
from headwater_schemas.errors import NotDecodable

__all__ = ["Explanation", "Refusal", "explain"]

_REASONS = {"l": "the lease was lost", "s": "older than the entry", "d": "another version domain was there"}
_WRITERS = {"E": "event", "W": "write", "L": "load"}
_MEANINGS: dict[Verdict | Literal["invalidated"], str] = {
    "fresh": "served",
    "soft": "served, and refreshed in the background",
    "negative": "not found",
    "fence": "known to be newer than the cache, not served: the next read loads it, or its event fills it",
    "expired": "not served, its version still refuses older ones: the next read loads it",
    "absent": "nothing is stored",
    "invalidated": "not served: a tag of it was invalidated after it was loaded; the next read loads it",
}


class Refusal(msgspec.Struct, frozen=True):
    """The last write that changed nothing, within the last hour. Events that merely repeat are not recorded."""

    writer: str
    version: str
    reason: str
    written_at: int


class Explanation(msgspec.Struct, frozen=True):
    """One key, explained. Stamps in ms since the epoch, durations in ms; ``None`` = none.

    Args:
        redis_key: name in Redis.
        verdict: what a read would make of it now.
        meaning: the same in words.
        state: V value, T tombstone, N negative, F fence.
        version: as ``str(VersionToken)`` gives it.
        expires_in: physical life left; ``None`` = for ever.
        lease: who is loading or writing it: ``host:pid:random``.
        lease_expires_in: when that process is given up.
        refusal: the last write that changed nothing.
        watermarks: next offset to be applied, per partition: what the view or cache has followed so far.
        ready: how many partitions of how many were seen at their end.
    """

    entity: str
    key: str
    epoch: int
    redis_key: str
    verdict: Verdict | Literal["invalidated"]
    meaning: str
    state: str | None
    version: str | None
    written_at: int | None
    soft: int | None
    hard: int | None
    schema_id: int | None
    payload_bytes: int | None
    tags: Mapping[str, int]
    expires_in: int | None
    lease: str | None
    lease_expires_in: int | None
    refusal: Refusal | None
    watermarks: Mapping[str, int]
    ready: tuple[int, int]


def explain(space: Space, key: str) -> Step[Explanation]:
    """Look at everything that Redis holds about ``key``. Changes nothing."""
    yield from space.look()
    name = space.key(key)
    replies = yield Batch(
        [
            ("GET", name),
            ("PTTL", name),
            ("GET", name + ":l"),
            ("PTTL", name + ":l"),
            ("GET", name + ":x"),
            ("HGETALL", space.watermarks),
            ("HGETALL", space.readiness),
        ]
    )
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    data, life, lease, lease_life, refused, marks, ready = replies
    entry = unpack(data) if data is not None else None
    verdict: Verdict | Literal["invalidated"] = judge(entry, space.domain, space.now_ms())
    if entry is not None and entry.tags and verdict != "fence" and not (yield from holds(space, entry)):
        verdict = "invalidated"
    total = int(ready.get(b"partitions", b"0"))
    return Explanation(
        entity=space.name,
        key=key,
        epoch=space.epoch,
        redis_key=name,
        verdict=verdict,
        meaning=_MEANINGS[verdict],
        state=entry.state if entry else None,
        version=str(VersionToken(entry.domain, entry.version)) if entry else None,
        written_at=entry.written_at if entry else None,
        soft=(entry.soft or None) if entry else None,
        hard=(entry.hard or None) if entry else None,
        schema_id=(entry.schema_id or None) if entry else None,
        payload_bytes=(len(entry.payload) if entry.state == "V" else 0) if entry else None,
        tags=entry.tags if entry else {},
        expires_in=life if life >= 0 else None,
        lease=lease.decode() if lease else None,
        lease_expires_in=lease_life if lease_life >= 0 else None,
        refusal=_refusal(refused) if refused else None,
        watermarks=watermarks_of(marks),
        ready=(len(ready) - (b"partitions" in ready), total),
    )


def _refusal(data: bytes) -> Refusal:
    reason, writer = chr(data[0]), chr(data[1])
    try:
        entry: Entry = unpack(data[2:50].ljust(HEADER_SIZE + 2, b"\0"))
    except NotDecodable:
        return Refusal(_WRITERS[writer], "?", _REASONS[reason], 0)
    return Refusal(_WRITERS[writer], str(VersionToken(entry.domain, entry.version)), _REASONS[reason], entry.written_at)
