"""Epochs: a view is filled anew beside the live one and takes its place at once, when it has caught up.

Never fill the live epoch by replaying an old log: compaction removes tombstones (after 24 h by default), so a replay
from the beginning would bring back keys whose deletion it no longer sees. A new epoch starts empty.
"""

from __future__ import annotations

from headwater_cache.errors import ViewNotReady, WrongEpoch
from headwater_cache.scripts import GOLIVE
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Step, evaluate
from headwater_schemas.errors import UsageError

__all__ = ["drop_epoch", "go_live", "live_epoch"]

_PAGE = 500


def live_epoch(space: Space) -> Step[int]:
    """The epoch that followers of the live one read; 1 if none was ever set."""
    live = yield Ask(("GET", space.pointer))
    return int(live or 1)


def go_live(space: Space) -> Step[None]:
    """Make the epoch of ``space`` the live one.

    Raises:
        ViewNotReady: not every partition of it was marked ready.
        WrongEpoch: a later one is live.
    """
    marks = yield Ask(("HGETALL", space.readiness))
    total = int(marks.pop(b"partitions", b"0"))
    if not total or len(marks) < total:
        raise ViewNotReady(
            f"epoch {space.epoch} of {space.name} has {len(marks)} of {total or '?'} partitions ready; going live now "
            "would hide keys"
        )
    if not (yield from evaluate(GOLIVE, [space.pointer], [str(space.epoch)])):
        raise WrongEpoch(f"a later epoch than {space.epoch} of {space.name} is live")


def drop_epoch(space: Space, epoch: int) -> Step[int]:
    """Delete everything of a retired epoch, a page at a time; how many names that were.

    Raises:
        UsageError: the epoch is live (or to come), or this is a Cluster, whose nodes can only be scanned one by one.
    """
    if space.cluster:
        raise UsageError("in a Cluster a retired epoch can not be dropped from here: scan each primary for its prefix")
    live = yield from live_epoch(space)
    if epoch >= live:
        raise UsageError(f"epoch {epoch} of {space.name} is not retired: {live} is live")
    cursor, dropped = b"0", 0
    while True:
        cursor, names = yield Ask(("SCAN", cursor, "MATCH", f"{{{space.name}:{epoch}[:}}]*", "COUNT", _PAGE))
        if names:
            dropped += yield Ask(("UNLINK", *names))
        if int(cursor) == 0:
            return dropped
