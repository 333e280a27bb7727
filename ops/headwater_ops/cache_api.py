"""The cache over HTTP, for those who may look: what is known of a key, and what a cache holds.

Only caches that have a change topic in the catalogue are shown, so that nobody can make names in Redis or in the
metrics by asking.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query

from headwater_cache import EntityCache, RedisSettings
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.settings import Environment
from headwater_schemas.wire import change_topic
from headwater_tasks.http.access import requires
from headwater_tasks.http.problems import ProblemError, responses

__all__ = ["cache_router"]

Entity = Annotated[str, Path(description="Name of the cache, such as flight.", max_length=100)]
Key = Annotated[str, Path(description="Business key; it may hold slashes.")]
Domain = Annotated[str, Query(description="Version domain of the cache: log, unless a source gives versions.")]
Limit = Annotated[int, Query(ge=1, le=100_000, description="Entries to look at, at most.")]


def cache_router(env: Environment) -> APIRouter:
    """``GET /v1/cache/{entity}/stats`` and ``/v1/cache/{entity}/{key}/explain``, for the scope ``cache:read``.

    Raises:
        SettingError: a setting is malformed.
    """
    settings = RedisSettings.from_env(env)
    followed = {topic.name for topic in Catalogue.from_env(env).topics()}
    router = APIRouter(prefix="/v1/cache", tags=["cache"], dependencies=[requires("cache:read")])

    def known(entity: str, domain: str) -> EntityCache[Any]:
        if change_topic(entity) not in followed:
            raise ProblemError(
                404, "not-found", f"no cache {entity}: the catalogue has no topic {change_topic(entity)}"
            )
        return EntityCache[Any](entity, settings, domain=domain)

    @router.get("/{entity}/stats", responses=responses(404))
    async def stats(entity: Entity, domain: Domain = "log", limit: Limit = 10_000) -> dict[str, Any]:
        """Count what a cache holds: entries by state, sizes, leases, watermarks. Scans."""
        async with known(entity, domain) as cache:
            return _plain(await cache.astats(limit=limit))

    @router.get("/{entity}/{key:path}/explain", responses=responses(404))
    async def explain(entity: Entity, key: Key, domain: Domain = "log") -> dict[str, Any]:
        """State, version, fence, lease, last refused write and watermarks of a key. Its value is not shown."""
        async with known(entity, domain) as cache:
            return _plain(await cache.aexplain(key))

    return router


def _plain(found: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
