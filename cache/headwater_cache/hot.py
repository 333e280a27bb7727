"""Hot keys: which they are, as Redis itself counts (LFU), and how a cold cache gets them before its readers ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest
from itertools import islice
from typing import Any

from headwater_cache.loads import SourceReads
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Batch, Gather, Pause, Step
from headwater_schemas.errors import Unavailable, UsageError

__all__ = ["hot_keys", "warm"]

_PAGE = 500


def hot_keys(space: Space, count: int) -> Step[list[str]]:
    """The keys that were read most of late, hottest first, by a scan and Redis's own frequency counters.

    Raises:
        UsageError: Redis does not count (its ``maxmemory-policy`` is none of the LFU ones), or this is a Cluster.
    """
    if space.cluster:
        raise UsageError("in a Cluster hot keys can not be looked up from here: ask each primary")
    prefix = space.prefix.encode()
    found: list[tuple[int, bytes]] = []
    cursor, more = b"0", True
    while more:
        cursor, names = yield Ask(("SCAN", cursor, "MATCH", f"{space.prefix}*", "COUNT", _PAGE))
        more = int(cursor) != 0
        entries = [name for name in names if name.endswith(b"}")]
        replies: list[Any] = yield Batch([("OBJECT", "FREQ", name) for name in entries])
        for name, reply in zip(entries, replies, strict=True):
            if isinstance(reply, Exception):
                raise UsageError(f"Redis does not count reads: set maxmemory-policy allkeys-lfu ({reply})") from reply
            if reply is not None:
                found.append((reply, name))
        found = nlargest(count, found)
    return [name[len(prefix) : -1].decode() for _, name in found]


def warm(
    space: Space, reads: SourceReads[Any], keys: Iterable[str], rate: float, progress: Callable[[int], None] | None
) -> Step[int]:
    """Read ``keys``, so that what is missing is loaded, at most ``rate`` a second; how many were read.

    Keys whose load fails are left for their readers.
    """
    waiting, done = iter(keys), 0
    while batch := list(islice(waiting, space.policy.loads)):
        began = space.clock.monotonic()
        done += sum((yield Gather([_read(reads, key) for key in batch])))
        if progress is not None:
            progress(done)
        ahead = len(batch) / rate - (space.clock.monotonic() - began)
        if ahead > 0:
            yield Pause(ahead)
    return done


def _read(reads: SourceReads[Any], key: str) -> Step[int]:
    try:
        yield from reads.read(key, None, None)
    except Unavailable:
        return 0
    return 1
