"""Invalidating what a cache holds from outside the program that owns it: by the command line, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater_cache import EntityCache, RedisSettings
from headwater_cache.topology import is_cluster
from headwater_schemas.errors import UsageError

__all__ = ["ViewNotInvalidated", "invalidate"]

_SAMPLE = 100


class ViewNotInvalidated(UsageError):
    """A view has no source to read anew from: what is invalidated would be gone until its log is replayed."""


async def invalidate(entity: str, settings: RedisSettings, keys: Sequence[str], tags: Sequence[str]) -> dict[str, bool]:
    """Stop serving ``keys``, and what carries one of ``tags``; the next reads ask the source.

    Safe to repeat. Redis does not say whether it holds a view or a cache; a view is known by values that never expire.
    So a cache whose policy has no hard expiry is taken for a view and refused (call ``EntityCache.invalidate`` in its
    own program). Of a view whose sample has no value, and of one in a Cluster, tags are accepted, and change nothing.

    Returns:
        For each key whether there was something to stop.

    Raises:
        ViewNotInvalidated: it is a view. Nothing was invalidated.
        InvalidKey, UsageError: of a key or tag that cannot be.
        CacheUnavailable: Redis does not answer; some may have been invalidated.
    """
    async with EntityCache[Any](entity, settings, mode="cache") as cache:
        for key in keys:
            found = await cache.aexplain(key)
            if (found.state == "V" and found.hard is None) or (found.state == "F" and found.expires_in is None):
                raise _view(entity, f"read {key!r}")
        if tags and not is_cluster(settings) and (await cache.astats(limit=_SAMPLE)).lasting:
            raise _view(entity, "read what carries a tag")
        if tags:
            await cache.ainvalidate_tags(*tags)
        return {key: await cache.ainvalidate(key) for key in keys}


def _view(entity: str, what: str) -> ViewNotInvalidated:
    return ViewNotInvalidated(
        f"{entity} is a view (what it holds never expires): there is no source to {what} from; use "
        "`headwater cache warm` to fill it anew, or `audit --repair`"
    )
