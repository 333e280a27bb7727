"""Does Redis answer, run scripts, and keep what it is given?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from headwater_cache.settings import RedisSettings
from headwater_ops.doctor.finding import Finding, bad, good, odd
from headwater_schemas.settings import Environment

__all__ = ["check_redis"]

_SKEW = 2.0  # seconds


def check_redis(env: Environment) -> Iterator[Finding]:
    """Blocks for a few times ``HEADWATER_REDIS_TIMEOUT``. Of a Cluster every primary is looked at."""
    import redis

    from headwater_cache.topology import sync_client

    settings = RedisSettings.from_env(env)
    address = urlsplit(settings.url)
    shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    try:
        client = sync_client(settings)
        try:
            yield from _check(client, shown)
        finally:
            client.close()
    except (redis.RedisError, OSError) as exc:
        yield bad(
            "redis",
            f"{shown}: {exc}",
            "headwater up starts one on this machine; or correct HEADWATER_REDIS_URL (user and password included), or "
            "HEADWATER_REDIS_CA if it is the certificate that is refused",
        )


def _check(client: Any, shown: str) -> Iterator[Finding]:
    import redis

    nodes = _nodes(client)
    yield good("redis", f"{shown}: {', '.join(sorted({_product(info) for info in nodes}))}, {len(nodes)} node(s)")
    yield _eviction(nodes)
    try:
        client.evalsha(client.script_load("return 1"), 0)  # the rights that the cache needs, no more
        yield good("redis scripts", "Lua runs")
    except redis.ResponseError as exc:
        yield bad("redis scripts", f"Lua is refused: {exc}", "grant +evalsha +script|load to this user")
    yield _clock(client)


def _nodes(client: Any) -> list[dict[str, Any]]:
    """What INFO says, of every node that takes writes."""
    import redis

    if not isinstance(client, redis.RedisCluster):
        return [client.info()]
    answer: dict[str, Any] = client.info(target_nodes=redis.RedisCluster.PRIMARIES)
    # One primary alone answers for itself, several by name.
    return [answer] if "redis_version" in answer else list(answer.values())


def _product(info: dict[str, Any]) -> str:
    if info.get("server_name") == "valkey":
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _eviction(nodes: list[dict[str, Any]]) -> Finding:
    policies = {str(info.get("maxmemory_policy")) for info in nodes} - {"noeviction"}
    limits = ", ".join(f"{int(info.get('maxmemory', 0)) >> 20} MiB" for info in nodes)
    if not policies:
        return good("redis eviction", f"maxmemory-policy is noeviction, maxmemory {limits} (0: no limit)")
    return bad(
        "redis eviction",
        f"maxmemory-policy is {', '.join(sorted(policies))}: an evicted entry of a view reads as 'not found'",
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
