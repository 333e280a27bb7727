"""The border to redis-py: clients with bounded latency."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions

from headwater_cache.breaker import Breaker
from headwater_cache.cluster import everywhere, merged, split
from headwater_cache.guard import FAILURES, Guard, translate
from headwater_cache.settings import RedisSettings
from headwater_cache.steps import AsyncDriver, Command, SyncDriver
from headwater_cache.topology import async_client, is_cluster, sentinels_of, sync_client
from headwater_cache.turns import AsyncTurns, Turns
from headwater_schemas.clock import Clock

__all__ = ["Connection"]

T = TypeVar("T")


class _SyncPort:
    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        reader: redis.Redis | redis.RedisCluster,
        guard: Guard,
        settings: RedisSettings,
    ) -> None:
        self._client = client
        self._reader = reader
        self._turns = Turns(guard, settings, hasty=False)
        self._turns_to_read = Turns(guard, settings, hasty=True)

    def read(self, command: Command) -> Any:
        return self._guarded(self._turns_to_read, self._reader.execute_command, *command)

    def ask(self, command: Command) -> Any:
        return self._guarded(self._turns, self._send, command)

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        return _translated_all(self._guarded(self._turns, self._pipeline, commands))

    def _guarded(self, turns: Turns, call: Callable[..., T], *args: Any) -> T:
        turns.take()
        try:
            reply = call(*args)
        except FAILURES as exc:
            raise turns.failed(exc) from exc
        finally:
            turns.give()
        turns.answered()
        return reply

    def _send(self, command: Command) -> Any:
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return pipe.execute(raise_on_error=False)


class _SyncClusterPort(_SyncPort):
    def _send(self, command: Command) -> Any:
        if not everywhere(command):
            return super()._send(command)
        primaries = redis.RedisCluster.PRIMARIES
        return merged(command, self._client.execute_command(*command, target_nodes=primaries))  # type: ignore[no-untyped-call]

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        general, keyed = split(commands)
        replies: dict[int, Any] = {}
        for at in general:
            try:
                replies[at] = self._send(commands[at])
            except exceptions.ResponseError as exc:
                replies[at] = exc
        if keyed:
            replies.update(zip(keyed, super()._pipeline([commands[at] for at in keyed]), strict=True))
        return [replies[at] for at in range(len(commands))]


class _AsyncPort:
    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        reader: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        guard: Guard,
        settings: RedisSettings,
    ) -> None:
        self._client = client
        self._reader = reader
        self._turns = AsyncTurns(guard, settings, hasty=False)
        self._turns_to_read = AsyncTurns(guard, settings, hasty=True)

    async def read(self, command: Command) -> Any:
        return await self._guarded(self._reader.execute_command(*command), self._turns_to_read)

    async def ask(self, command: Command) -> Any:
        return await self._guarded(self._send(command), self._turns)

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        return _translated_all(await self._guarded(self._pipeline(commands), self._turns))

    async def _guarded(self, call: Coroutine[Any, Any, T], turns: AsyncTurns) -> T:
        try:
            await turns.take()
        except BaseException:
            call.close()
            raise
        try:
            reply = await call
        except FAILURES as exc:
            raise turns.failed(exc) from exc
        finally:
            turns.give()
        turns.answered()
        return reply

    async def _send(self, command: Command) -> Any:
        return await self._client.execute_command(*command)

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)


class _AsyncClusterPort(_AsyncPort):
    async def _send(self, command: Command) -> Any:
        if not everywhere(command):
            return await super()._send(command)
        primaries = redis.asyncio.RedisCluster.PRIMARIES
        return merged(command, await self._client.execute_command(*command, target_nodes=primaries))

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        general, keyed = split(commands)
        replies: dict[int, Any] = {}
        for at in general:
            try:
                replies[at] = await self._send(commands[at])
            except exceptions.ResponseError as exc:
                replies[at] = exc
        if keyed:
            replies.update(zip(keyed, await super()._pipeline([commands[at] for at in keyed]), strict=True))
        return [replies[at] for at in range(len(commands))]


def _translated_all(replies: list[Any]) -> list[Any]:
    return [
        translate(reply)
        if isinstance(reply, exceptions.RedisError) and not isinstance(reply, exceptions.NoScriptError)
        else reply
        for reply in replies
    ]


class Connection:
    """The clients of one Redis: two for threads, two per event loop, the second with less patience; made when first
    used."""

    def __init__(self, name: str, settings: RedisSettings, clock: Clock) -> None:
        self.settings = settings
        self.cluster = is_cluster(settings)
        self.breaker = Breaker(name, clock)
        self._guard = Guard(self.breaker)
        self._lock = threading.Lock()
        self._sync: tuple[redis.Redis | redis.RedisCluster, redis.Redis | redis.RedisCluster, SyncDriver] | None = None
        self._async: _Loops = weakref.WeakKeyDictionary()

    @property
    def driver(self) -> SyncDriver:
        """The driver for blocking callers.

        Raises:
            CacheUnavailable: no node of a Cluster answers.
        """
        found = self._sync
        if found is None:
            with self._lock:
                found = self._sync = self._sync or self._connected()
        return found[2]

    def _connected(self) -> tuple[redis.Redis | redis.RedisCluster, redis.Redis | redis.RedisCluster, SyncDriver]:
        try:
            client = sync_client(self.settings)
            reader = sync_client(self.settings, self.settings.read_timeout)
        except FAILURES as exc:
            raise translate(exc) from exc
        port = (_SyncClusterPort if self.cluster else _SyncPort)(client, reader, self._guard, self.settings)
        return client, reader, SyncDriver(port)

    @property
    def async_driver(self) -> AsyncDriver:
        """The driver for the running event loop."""
        loop = asyncio.get_running_loop()
        found = self._async.get(loop)
        if found is None:
            client = async_client(self.settings)
            reader = async_client(self.settings, self.settings.read_timeout)
            port = (_AsyncClusterPort if self.cluster else _AsyncPort)(client, reader, self._guard, self.settings)
            found = self._async[loop] = client, reader, AsyncDriver(port)
        return found[2]

    def tracking_connection(self) -> Any:
        """A new connection to the primary, outside the pool, for the invalidation channel."""
        _ = self.driver
        assert self._sync is not None
        pool: Any = self._sync[0].connection_pool  # type: ignore[union-attr]  # never a Cluster
        return pool.connection_class(**pool.connection_kwargs)

    def close(self) -> None:
        """Finish what runs in the background and close the connections of the blocking callers."""
        if self._sync is not None:
            *clients, driver = self._sync
            self._sync = None
            driver.close()
            for client in clients:
                client.close()
                if isinstance(client, redis.Redis):  # `close` leaves a pool alone that the client was given
                    client.connection_pool.disconnect()
                    for each in sentinels_of(client):
                        each.close()

    async def aclose(self) -> None:
        """The same for the running event loop."""
        found = self._async.pop(asyncio.get_running_loop(), None)
        if found is not None:
            client, reader, driver = found
            await driver.close()
            for each in (client, reader):
                await each.aclose()
                if isinstance(each, redis.asyncio.Redis):
                    await each.connection_pool.disconnect()
                    for sentinel_client in sentinels_of(each):
                        await sentinel_client.aclose()


_Loops = weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop,
    tuple[
        redis.asyncio.Redis | redis.asyncio.RedisCluster, redis.asyncio.Redis | redis.asyncio.RedisCluster, AsyncDriver
    ],
]
