"""The cache over HTTP: what is known of a key, what a cache holds, and a way to invalidate, each for those who may.

Only caches that have a change topic in the catalogue are known here, so that nobody can make names in Redis or in the
metrics by asking.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from headwater_cache import EntityCache, RedisSettings, UnsafeRedis
from headwater_ops.invalidating import ViewNotInvalidated, invalidate
from headwater_ops.looking import look
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.errors import BadRecord
from headwater_schemas.settings import Environment
from headwater_schemas.wire import change_topic
from headwater_tasks.http.access import requires
from headwater_tasks.http.problems import ProblemError, responses

__all__ = ["cache_router"]

Entity = Annotated[str, Path(description="Name of the cache, such as flight.", max_length=100)]
Key = Annotated[str, Path(description="Business key; it may hold slashes.")]
Domain = Annotated[str, Query(description="Version domain of the cache: log, unless a source gives versions.")]
Kind = Annotated[
    Literal["view", "cache"] | None, Query(description="What the entity is; unless given, seen by what it holds.")
]
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


class Found(BaseModel):
    """What readers are served."""

    entity: str
    key: str
    version: str | None = Field(description="As a version token has it; null = the value has none.")
    value: Any


def cache_router(env: Environment) -> APIRouter:
    """``GET /v1/cache/{entity}/stats`` and ``/v1/cache/{entity}/{key}/explain``, for the scope ``cache:read``;
    ``GET /v1/cache/{entity}/{key}/value``, for ``cache:values``; ``POST /v1/cache/{entity}/invalidate``, for
    ``cache:write``.

    Raises:
        SettingError: a setting is malformed.
    """
    settings = RedisSettings.from_env(env)
    followed = {topic.name for topic in Catalogue.from_env(env).topics()}
    router = APIRouter(prefix="/v1/cache", tags=["cache"])
    may_read, may_see, may_write = ([requires(scope)] for scope in ("cache:read", "cache:values", "cache:write"))

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

    @router.get("/{entity}/{key:path}/value", dependencies=may_see, responses=responses(404, 409))
    def value(entity: Entity, key: Key, domain: Domain = "log", mode: Kind = None) -> Found:
        """The value of a key as its readers are served it; 404 if it is not found.

        A cache is not loaded from its source: what has expired, or was invalidated, is not found here.
        """
        check(entity)
        try:
            found = look(env, entity, key, domain=domain, mode=mode)
        except BadRecord as exc:
            raise ProblemError(409, "not-decodable", str(exc)) from exc
        except UnsafeRedis as exc:  # mode=view, of what can be none
            raise ProblemError(422, "invalid", str(exc)) from exc
        if found.reading.value is None:
            raise ProblemError(404, "not-found", f"{entity} {key}: {found.explained.meaning}")
        return Found(entity=entity, key=key, version=found.explained.version, value=_json(found.reading.value))

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


def _json(value: Any) -> Any:
    """What JSON can tell of a value: bytes as Base64, times and numbers of other kinds as text, NaN as null."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def _plain(found: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
