"""The cache over HTTP: what is known of a key, what a cache holds, and a way to invalidate, each for those who may.

Only caches that have a change topic in the catalogue are known here, so that nobody can make names in Redis or in the
metrics by asking.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from headwater_cache import EntityCache, RedisSettings
from headwater_ops.invalidating import ViewNotInvalidated, invalidate
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


class Invalidation(BaseModel):
    """What is not to be served any more: keys, tags, or both."""

    model_config = ConfigDict(extra="forbid")

    keys: list[str] = Field(default=[], max_length=100, description="Business keys.", examples=[["c-1:EUR"]])
    tags: list[str] = Field(
        default=[], max_length=100, description="Everything that carries one of them.", examples=[["carrier:UA"]]
    )


class Invalidated(BaseModel):
    """What became of it. The next read of each key asks the source."""

    entity: str
    invalidated: list[str] = Field(description="Keys that were there.")
    absent: list[str] = Field(description="Keys that were not; a load of them in flight was refused.")
    tags: list[str]


def cache_router(env: Environment) -> APIRouter:
    """``GET /v1/cache/{entity}/stats`` and ``/v1/cache/{entity}/{key}/explain``, for the scope ``cache:read``;
    ``POST /v1/cache/{entity}/invalidate``, for ``cache:write``.

    Raises:
        SettingError: a setting is malformed.
    """
    settings = RedisSettings.from_env(env)
    followed = {topic.name for topic in Catalogue.from_env(env).topics()}
    router = APIRouter(prefix="/v1/cache", tags=["cache"])
    may_read, may_write = [requires("cache:read")], [requires("cache:write")]

    def check(entity: str) -> None:
        if change_topic(entity) not in followed:
            raise ProblemError(
                404, "not-found", f"no cache {entity}: the catalogue has no topic {change_topic(entity)}"
            )

    def known(entity: str, domain: str) -> EntityCache[Any]:
        check(entity)
        return EntityCache[Any](entity, settings, mode="cache", domain=domain)  # a view is looked at alike

    @router.get("/{entity}/stats", dependencies=may_read, responses=responses(404))
    async def stats(entity: Entity, domain: Domain = "log", limit: Limit = 10_000) -> dict[str, Any]:
        """Count what a cache holds: entries by state, sizes, leases, watermarks. Scans."""
        async with known(entity, domain) as cache:
            return _plain(await cache.astats(limit=limit))

    @router.get("/{entity}/{key:path}/explain", dependencies=may_read, responses=responses(404))
    async def explain(entity: Entity, key: Key, domain: Domain = "log") -> dict[str, Any]:
        """State, version, fence, lease, last refused write and watermarks of a key. Its value is not shown."""
        async with known(entity, domain) as cache:
            return _plain(await cache.aexplain(key))

    @router.post("/{entity}/invalidate", dependencies=may_write, responses=responses(404, 409))
    async def stop_serving(entity: Entity, what: Invalidation) -> Invalidated:
        """Stop serving keys, and what carries a tag, of a cache: the next reads ask its source. Safe to repeat.

        A view is refused (409): it has no source, and is filled anew by `headwater cache warm`.
        """
        check(entity)
        if not what.keys and not what.tags:
            raise ProblemError(422, "invalid", "name what to invalidate: keys, tags or both")
        try:
            found = await invalidate(entity, settings, what.keys, what.tags)
        except ViewNotInvalidated as exc:
            raise ProblemError(409, "no-source", str(exc)) from exc
        return Invalidated(
            entity=entity,
            invalidated=[key for key, was_there in found.items() if was_there],
            absent=[key for key, was_there in found.items() if not was_there],
            tags=what.tags,
        )

    return router


def _plain(found: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
