"""Does Redis answer, run scripts, and keep what it is given?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from headwater_cache.settings import RedisSettings
from headwater_ops.doctor.finding import Finding, bad, good, odd
from headwater_schemas.settings import Environment

__all__ = ["check_redis"]

_SKEW = 2.0  # seconds


def check_redis(env: Environment) -> Iterator[Finding]:
    """Blocks for a few times ``HEADWATER_REDIS_TIMEOUT``."""
    import redis

    settings = RedisSettings.from_env(env)
    address = urlsplit(settings.url)
    shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    if address.scheme not in ("redis", "rediss", "unix"):
        yield odd(
            "redis", f"{shown}: a Sentinel or Cluster address is not looked into", "ask one of its nodes directly"
        )
        return
    options: dict[str, Any] = {"socket_timeout": settings.timeout, "socket_connect_timeout": settings.timeout}
    with redis.Redis.from_url(settings.url, decode_responses=True, **options) as client:
        try:
            yield from _check(client, shown)
        except (redis.RedisError, OSError) as exc:
            yield bad(
                "redis",
                f"{shown}: {exc}",
                "headwater up starts one on this machine; or correct HEADWATER_REDIS_URL (user and password included)",
            )


def _check(client: Any, shown: str) -> Iterator[Finding]:
    import redis

    info = cast("dict[str, Any]", client.info())
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    yield good("redis", f"{shown}: {name} {version}")
    yield _eviction(info)
    try:
        client.eval("return 1", 0)
        yield good("redis scripts", "Lua runs")
    except redis.ResponseError as exc:
        yield bad("redis scripts", f"Lua is refused: {exc}", "allow EVALSHA, EVAL and SCRIPT LOAD to this user")
    yield _clock(client)


def _eviction(info: dict[str, Any]) -> Finding:
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", 0))
    if policy == "noeviction":
        return good("redis eviction", f"maxmemory-policy is noeviction, maxmemory {limit >> 20} MiB (0: no limit)")
    return bad(
        "redis eviction",
        f"maxmemory-policy is {policy}: an evicted entry of a view reads as 'not found'",
        "CONFIG SET maxmemory-policy noeviction; only caches in cache mode stand eviction",
    )


def _clock(client: Any) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    if abs(skew) <= _SKEW:
        return good("clock", f"within {_SKEW:.0f} s of the Redis server's")
    return odd(
        "clock",
        f"this machine is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the Redis server",
        "synchronise both (NTP): event times, latencies and retry delays are read from clocks",
    )
