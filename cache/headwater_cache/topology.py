"""Clients of redis-py for each kind of Redis URL, all with the same bounds on their latency."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from headwater_cache.settings import RedisSettings
from headwater_schemas.errors import SettingError

__all__ = ["Client", "async_client", "is_cluster", "sentinels_of", "sync_client"]

Client = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
_RETRIED = (exceptions.ConnectionError,)


class _Target(NamedTuple):
    kind: str
    nodes: list[tuple[str, int]]
    service: str
    options: dict[str, Any]


def is_cluster(settings: RedisSettings) -> bool:
    """Whether keys are spread over several primaries."""
    return urlsplit(settings.url).scheme.endswith("+cluster")


def sync_client(settings: RedisSettings, timeout: float | None = None) -> Client:
    """A client for threads; connects when first used. ``timeout``: of a reply, where it is not that of the settings.

    Raises:
        SettingError: the URL lacks a part.
    """
    target = _target(settings, timeout or settings.timeout)
    retry = Retry(NoBackoff(), settings.retries, _RETRIED)
    to_sentinels = _to_sentinels(settings) | {"retry": retry}
    match target.kind:
        case "sentinel":
            sentinel = Sentinel(target.nodes, sentinel_kwargs=to_sentinels, retry=retry, **target.options)  # type: ignore[no-untyped-call]  # redis-py
            master: redis.Redis = sentinel.master_for(target.service)  # type: ignore[no-untyped-call]  # redis-py
            return master
        case "cluster":
            nodes = [ClusterNode(host, port) for host, port in target.nodes]  # type: ignore[no-untyped-call]  # redis-py
            return redis.RedisCluster(startup_nodes=nodes, retry=retry, **target.options)
    limit = settings.max_connections  # the port waits for a free connection, see ``turns``
    pool = redis.ConnectionPool.from_url(settings.url, retry=retry, max_connections=limit, **target.options)
    return redis.Redis(connection_pool=pool)


def async_client(settings: RedisSettings, timeout: float | None = None) -> AsyncClient:
    """A client for the running event loop; connects when first used.

    Raises:
        SettingError: the URL lacks a part.
    """
    target = _target(settings, timeout or settings.timeout)
    retry = AsyncRetry(NoBackoff(), settings.retries, _RETRIED)
    to_sentinels = _to_sentinels(settings) | {"retry": retry}
    match target.kind:
        case "sentinel":
            sentinel = AsyncSentinel(target.nodes, sentinel_kwargs=to_sentinels, retry=retry, **target.options)  # type: ignore[no-untyped-call]  # redis-py
            master: redis.asyncio.Redis = sentinel.master_for(target.service)
            return master
        case "cluster":
            nodes = [AsyncClusterNode(host, port) for host, port in target.nodes]
            return redis.asyncio.RedisCluster(startup_nodes=nodes, retry=retry, **target.options)
    limit = settings.max_connections
    pool = redis.asyncio.ConnectionPool.from_url(settings.url, retry=retry, max_connections=limit, **target.options)
    return redis.asyncio.Redis(connection_pool=pool)


def sentinels_of(client: redis.Redis | redis.asyncio.Redis) -> list[Any]:
    """The clients with which it asks Sentinels; to be closed as well, as redis-py does not."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    return manager.sentinels if manager is not None else []


def _target(settings: RedisSettings, timeout: float) -> _Target:
    url = urlsplit(settings.url)
    _, _, kind = url.scheme.partition("+")
    if not kind:
        return _Target("single", [], "", _bounds(settings, timeout) | _trust(settings))
    options = _bounds(settings, timeout) | _tls(settings) | {"max_connections": settings.max_connections}
    if url.username:
        options["username"] = unquote(url.username)
    if url.password:
        options["password"] = unquote(url.password)
    service, _, db = url.path.strip("/").partition("/")
    if kind == "sentinel" and not service:
        raise SettingError("HEADWATER_REDIS_URL: name the service: redis+sentinel://host:port,host:port/service/db")
    if db:
        options["db"] = int(db)
    return _Target(kind, _nodes(url), service, options)


def _nodes(url: SplitResult) -> list[tuple[str, int]]:
    nodes = []
    for place in url.netloc.rpartition("@")[2].split(","):
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            raise SettingError(f"HEADWATER_REDIS_URL: {place!r} is not host:port; several are separated by commas")
        nodes.append((host.strip("[]"), int(port)))
    return nodes


def _to_sentinels(settings: RedisSettings) -> dict[str, Any]:
    return _bounds(settings, settings.timeout) | _tls(settings) | _sentinel_user(settings)


def _sentinel_user(settings: RedisSettings) -> dict[str, str]:
    user = {"username": settings.sentinel_username, "password": settings.sentinel_password}
    return {name: text for name, text in user.items() if text is not None}


def _tls(settings: RedisSettings) -> dict[str, Any]:
    """For what is not made by redis-py's ``from_url``."""
    return {"ssl": True, **_trust(settings)} if urlsplit(settings.url).scheme.startswith("rediss") else {}


def _trust(settings: RedisSettings) -> dict[str, Any]:
    files = {"ssl_ca_certs": settings.ca, "ssl_certfile": settings.cert, "ssl_keyfile": settings.key}
    return {name: path for name, path in files.items() if path is not None}


def _bounds(settings: RedisSettings, timeout: float) -> dict[str, Any]:
    """redis-py's defaults hang for 25 s on a black hole: everything that bounds latency is set here."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": settings.timeout,
        "protocol": 3,
        "decode_responses": False,
        "driver_info": None,  # two commands less for each connection
        # Maintenance notices relax the timeouts to 10 s while a managed Redis moves: our budget holds then too.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
