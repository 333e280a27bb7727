"""Reading a key from outside the program that owns its cache: by the command line, over HTTP."""

from __future__ import annotations

from typing import Any, NamedTuple

from headwater_cache import AvroValues, EntityCache, MsgpackValues, Reading, RedisSettings, UnsafeRedis, ViewNotReady
from headwater_cache.explain import Explanation
from headwater_cache.space import Mode
from headwater_cache.topology import is_cluster
from headwater_schemas.codec import Codec
from headwater_schemas.errors import NotPermitted
from headwater_schemas.settings import Environment

__all__ = ["AnyValues", "Look", "look"]

_SAMPLE = 100


class AnyValues:
    """Reads msgpack and Avro alike; asks the registry only for Avro."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    def encode(self, value: Any) -> tuple[int, bytes]:
        raise NotImplementedError("this one reads")

    def decode(self, schema_id: int, payload: bytes) -> Any:
        if schema_id == 0:
            return MsgpackValues[Any]().decode(schema_id, payload)
        codec = Codec.from_env(self._env)
        try:
            return AvroValues(lambda _: b"", codec.decoder()).decode(schema_id, payload)
        finally:
            codec.close()


class Look(NamedTuple):
    """What a reader of the entity would be served from Redis, and why.

    ``mode`` is what it was read as. In a cache a value that is not served is loaded by its own program's next read.
    """

    mode: Mode
    reading: Reading[Any]
    explained: Explanation


def look(env: Environment, entity: str, key: str, *, domain: str = "log", mode: Mode | None = None) -> Look:
    """Read a key as its readers do, but for asking a source. Blocks.

    Args:
        env: where Redis is, and the registry.
        entity: name of the cache.
        key: business key.
        domain: version domain of the cache.
        mode: what the entity is; ``None`` = see by what it holds: in a view nothing expires. A cache whose policy has
            no expiry looks like a view; that makes no difference but for an absent key.

    Raises:
        ViewNotReady: the key is absent from a view that has not caught up with its log.
        NotVisibleYet: view: a newer version exists and has not arrived.
        NotDecodable, SchemaMismatch: what is there is no value that can be read.
        CacheUnavailable: Redis does not answer.
    """
    settings, values = RedisSettings.from_env(env), AnyValues(env)
    with EntityCache[Any](entity, settings, mode="cache", values=values, domain=domain) as cache:
        explained = cache.explain(key)
        if mode is None and _expires(cache, explained, scans=not is_cluster(settings)):
            mode = "cache"
        if mode != "cache":
            with EntityCache[Any](entity, settings, values=values, domain=domain) as view:
                try:
                    return Look("view", _read_view(view, key), explained)
                except UnsafeRedis:  # it may evict, so what it holds is a cache
                    if mode is not None:
                        raise
        return Look("cache", cache.read(key), explained)


def _expires(cache: EntityCache[Any], explained: Explanation, *, scans: bool) -> bool:
    """Whether this key, or else another of the entity, ends by itself."""
    if explained.state in ("V", "N"):
        return bool(explained.soft or explained.hard or explained.tags)
    if explained.state == "F":
        return explained.expires_in is not None
    if not scans:
        return False
    try:
        sample = cache.stats(limit=_SAMPLE)
    except NotPermitted:  # to scan
        return False
    return sample.states.get("N", 0) > 0 or sample.states.get("V", 0) > sample.lasting


def _read_view(view: EntityCache[Any], key: str) -> Reading[Any]:
    try:
        return view.read(key)
    except ViewNotReady as exc:
        raise ViewNotReady(
            f"{key!r} is not in {view.name}; if {view.name} is a view, that says nothing before it has caught up with "
            "its log: let the cache sync run; if it is a cache, pass the mode `cache`"
        ) from exc
