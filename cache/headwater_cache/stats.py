"""What a namespace holds in Redis, counted by a scan: states, sizes, leases. For people, not for hot paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from headwater_cache.continuity import watermarks_of
from headwater_cache.entry import Entry, unpack
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Batch, Step
from headwater_schemas.errors import NotDecodable, UsageError

__all__ = ["CacheStats", "count"]

_PAGE = 500


class CacheStats(msgspec.Struct, frozen=True):
    """What the live epoch of a cache holds.

    Args:
        entries: entries that were looked at.
        complete: whether that is all of them; else the limit ended the scan, and ``states`` are of a sample.
        states: entries by state: V value, T tombstone, N negative, F fence; ``?`` another program's.
        conflicts: entries of another version domain than the cache was opened with: they are never served.
        lasting: values that never expire: in a view all of them, in a cache none unless its policy says so.
        payload_bytes: mean encoded size of a value.
        redis_bytes: mean memory of an entry as Redis counts it (MEMORY USAGE), name and all; 0 = not permitted.
        leases: loads and writes under way.
        ready: how many partitions of how many were seen at their end.
        watermarks: next offset to be applied, per partition.
    """

    entity: str
    epoch: int
    entries: int
    complete: bool
    states: Mapping[str, int]
    conflicts: int
    lasting: int
    payload_bytes: float
    redis_bytes: float
    leases: int
    ready: tuple[int, int]
    watermarks: Mapping[str, int]


def count(space: Space, limit: int) -> Step[CacheStats]:
    """Scan the live epoch, up to ``limit`` entries. Reads every entry's bytes; blocks nobody for long.

    Raises:
        UsageError: in a Cluster, whose nodes can only be scanned one by one.
    """
    if space.cluster:
        raise UsageError("in a Cluster a namespace can not be counted from here: scan each primary for its prefix")
    states: Counter[str] = Counter()
    values = payload = measured = memory = leases = lasting = conflicts = 0
    cursor, complete = b"0", False
    while not complete and states.total() < limit:
        cursor, names = yield Ask(("SCAN", cursor, "MATCH", f"{space.prefix}*", "COUNT", _PAGE))
        complete = int(cursor) == 0
        leases += sum(name.endswith(b"}:l") for name in names)
        entries = [name for name in names if name.endswith(b"}")]
        if not entries:
            continue
        data, *sizes = yield Batch([("MGET", *entries), *(("MEMORY", "USAGE", name) for name in entries[:20])])
        if isinstance(data, Exception):
            raise data
        known = [size for size in sizes if isinstance(size, int)]
        memory, measured = memory + sum(known), measured + len(known)
        for found in map(_entry, data):
            states[found.state if found else "?"] += 1
            conflicts += bool(found and found.domain != space.domain)
            if found and found.state == "V":
                values, payload = values + 1, payload + len(found.payload)
                lasting += not found.hard
    return CacheStats(
        space.name,
        space.epoch,
        states.total(),
        complete,
        dict(states),
        conflicts,
        lasting,
        round(payload / values, 1) if values else 0.0,
        round(memory / measured, 1) if measured else 0.0,
        leases,
        *(yield from _followed(space)),
    )


def _entry(data: bytes | None) -> Entry | None:
    """``None``: gone meanwhile, of another type, or another program's."""
    if data is None:
        return None
    try:
        return unpack(data)
    except NotDecodable:
        return None


def _followed(space: Space) -> Step[tuple[tuple[int, int], Mapping[str, int]]]:
    marks, ready = yield Batch([("HGETALL", space.watermarks), ("HGETALL", space.readiness)])
    for reply in (marks, ready):
        if isinstance(reply, Exception):
            raise reply
    total = int(ready.get(b"partitions", b"0"))
    return (len(ready) - (b"partitions" in ready), total), watermarks_of(marks)
