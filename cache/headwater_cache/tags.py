"""Tags: drop at once every entry that depends on something, without knowing which those are.

A namespace has a clock of its own, which each invalidation moves on, and each tag notes when it was last invalidated.
A load reads the clock *before* the source, and its entry keeps that time. An entry is good if none of its tags was
invalidated later. So an invalidation costs one command, however many entries it drops, and a load that began before it
can not survive it. (Generations per tag would do the same, but only for tags that are known before the load.)

The price is one command per load, and one per read of a tagged entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from headwater_cache.entry import Entry
from headwater_cache.scripts import TAGGED
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Step, evaluate
from headwater_schemas.errors import UsageError

__all__ = ["check_tags", "holds", "invalidate_tags", "tag_clock"]

_CLOCK = ""
_LONGEST = 200


def check_tags(tags: Sequence[str]) -> Sequence[str]:
    """The tags, unchanged.

    Raises:
        UsageError: one is empty or longer than 200 characters, or ``tags`` is one text instead of several.
    """
    if isinstance(tags, str) or not all(isinstance(tag, str) and 0 < len(tag) <= _LONGEST for tag in tags):
        raise UsageError(f"tags={tags!r}: pass several texts of 1 to {_LONGEST} characters")
    return tags


def tag_clock(space: Space) -> Step[int]:
    """The time on the namespace's clock, to be read before the source."""
    now = yield Ask(("HGET", space.tags, _CLOCK))
    return int(now or 0)


def holds(space: Space, entry: Entry) -> Step[bool]:
    """Whether no tag of an entry was invalidated since its load. A clock that was lost (evicted) holds nothing."""
    loaded_at = max(entry.tags.values())
    now, *invalidated = yield Ask(("HMGET", space.tags, _CLOCK, *entry.tags))
    if int(now or 0) < loaded_at:
        return False
    return all(int(when or 0) <= loaded_at for when in invalidated)


def invalidate_tags(space: Space, tags: Sequence[str]) -> Step[None]:
    """No entry that was loaded before now and carries one of ``tags`` is served again."""
    yield from evaluate(TAGGED, [space.tags], list(check_tags(tags)))
