"""What the cache is measured beside: other Python caches over Redis, each as its own manual sets it up.

Every contender reads through the same slow source. Commands are counted where redis-py packs them, for all alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis.asyncio
import redis.connection

from headwater_cache import CachePolicy, EntityCache, Loaded

__all__ = ["CONTENDERS", "Commands", "Contender", "SlowSource"]


class Commands:
    """Counts the commands that this process sends through redis-py, pipelines and scripts included."""

    def __init__(self) -> None:
        self.count = 0
        self._watch(redis.asyncio.connection.AbstractConnection, "pack_command")
        self._watch(redis.connection.PythonRespSerializer, "pack")
        self._watch(redis.connection.HiredisRespSerializer, "pack")

    def _watch(self, packer: Any, name: str) -> None:
        pack = getattr(packer, name)

        def counted(this: Any, *args: Any) -> Any:
            self.count += 1
            return pack(this, *args)

        setattr(packer, name, counted)


class SlowSource:
    """Counts its loads; each takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loads = 0

    async def load(self, key: str) -> str:
        self.loads += 1
        await asyncio.sleep(self.seconds)
        return "value of " + key


class Contender(Protocol):
    """One cache in one process."""

    async def read(self, key: str) -> str | None: ...

    async def close(self) -> None: ...


class Headwater:
    """Cache mode: a lease over all processes, one flight in each."""

    def __init__(self, url: str, source: SlowSource) -> None:
        self._source = source
        self._cache = EntityCache[str]("stampede", url, mode="cache", source=self, policy=CachePolicy(wait="10s"))

    async def load(self, key: str) -> Loaded[str]:
        return Loaded(await self._source.load(key), 1)

    async def write(self, key: str, value: str | None) -> int:
        raise NotImplementedError

    async def read(self, key: str) -> str | None:
        return await self._cache.aget(key)

    async def close(self) -> None:
        await self._cache.aclose()


class BareRedis:
    """Look-aside with nothing against a stampede: GET, load, SET."""

    def __init__(self, url: str, source: SlowSource) -> None:
        self._source = source
        self._client = redis.asyncio.Redis.from_url(url)

    async def read(self, key: str) -> str | None:
        found = await self._client.get(f"bare:{key}")
        if found is None:
            value = await self._source.load(key)
            await self._client.set(f"bare:{key}", value, ex=60)
            return value
        return found if isinstance(found, str) else found.decode()

    async def close(self) -> None:
        await self._client.aclose()


class Cashews:
    """``@cache(lock=True)``."""

    def __init__(self, url: str, source: SlowSource) -> None:
        from cashews import Cache

        self._cache = Cache()
        self._cache.setup(url)
        self._read: Callable[..., Awaitable[str]] = self._cache(ttl="1m", key="cashews:{key}", lock=True)(_of(source))

    async def read(self, key: str) -> str | None:
        return await self._read(key=key)

    async def close(self) -> None:
        await self._cache.close()


class Aiocache:
    """``@cached_stampede``, which waits under a lease of 2 s."""

    def __init__(self, url: str, source: SlowSource) -> None:
        from aiocache import Cache, cached_stampede

        place = urlsplit(url)
        self._cached = cached_stampede(
            lease=2,
            ttl=60,
            key_builder=lambda _, key: f"aiocache:{key}",
            cache=Cache.REDIS,
            endpoint=place.hostname,
            port=place.port,
        )
        self._read: Callable[..., Awaitable[str]] = self._cached(_of(source))

    async def read(self, key: str) -> str | None:
        return await self._read(key)

    async def close(self) -> None:
        await self._cached.cache.close()


class Dogpile:
    """``get_or_create`` with a distributed lock; it blocks, so each reader is a thread."""

    def __init__(self, url: str, source: SlowSource) -> None:
        from dogpile.cache import make_region

        arguments = {"url": url, "distributed_lock": True, "thread_local_lock": False, "redis_expiration_time": 60}
        self._region = make_region().configure("dogpile.cache.redis", expiration_time=60, arguments=arguments)
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(25)

    async def read(self, key: str) -> str | None:
        def load() -> str:
            return asyncio.run_coroutine_threadsafe(self._source.load(key), self._loop).result()

        def get() -> str:
            value: str = self._region.get_or_create(f"dogpile:{key}", load)
            return value

        return await self._loop.run_in_executor(self._threads, get)

    async def close(self) -> None:
        self._threads.shutdown()


def _of(source: SlowSource) -> Callable[[str], Awaitable[str]]:
    async def load(key: str) -> str:
        return await source.load(key)

    return load


CONTENDERS: dict[str, Callable[[str, SlowSource], Contender]] = {
    "headwater": Headwater,
    "bare redis-py": BareRedis,
    "cashews": Cashews,
    "aiocache": Aiocache,
    "dogpile.cache": Dogpile,
}
