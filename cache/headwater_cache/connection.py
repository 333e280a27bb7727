"""The border to redis-py: clients with bounded latency, and its errors as ours."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions, sentinel
from redis.asyncio import sentinel as async_sentinel

from headwater_cache.breaker import Breaker
from headwater_cache.cluster import everywhere, merged, split
from headwater_cache.errors import CacheFull
from headwater_cache.settings import RedisSettings
from headwater_cache.steps import AsyncDriver, Command, SyncDriver
from headwater_cache.topology import async_client, has_nodes, is_cluster, sentinels_of, sync_client
from headwater_schemas.clock import Clock
from headwater_schemas.errors import CacheUnavailable, HeadwaterError, NotPermitted, SettingError, UsageError

__all__ = ["Connection", "translate"]

T = TypeVar("T")
_NONE_FREE = "no free connection to Redis in time; raise HEADWATER_REDIS_MAX_CONNECTIONS or send less"
_REFUSALS = ("NOPERM", "ACL failure in script", "can't run this command", "can't access at least one of the keys")
"""The first is a command's, the others are a script's: Valkey's and newer Redis's, older Redis's."""
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # redis-py keeps OpenSSL's text, whatever it wraps it in
_UNWANTED = ("ALERT_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE")
"""What a server tells that does not accept our certificate; after TLS 1.3's handshake, so it may also just hang up."""


def translate(exc: Exception) -> HeadwaterError:
    """The error of ours for one of redis-py's; the most specific class wins."""
    match exc:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return NotPermitted(f"Redis refuses the user or password in HEADWATER_REDIS_URL: {exc}")
        case exceptions.NoPermissionError():
            return NotPermitted(
                f"Redis refuses an operation to this user (needs the keys of the namespace, EVALSHA, SCRIPT): {exc}"
            )
        case exceptions.OutOfMemoryError():
            return CacheFull(f"Redis is at maxmemory and refuses writes: {exc}")
        case exceptions.MaxConnectionsError():
            return CacheUnavailable(f"{_NONE_FREE}: {exc}")
        case sentinel.MasterNotFoundError() | async_sentinel.MasterNotFoundError() if _refused_by_sentinels(exc):
            return NotPermitted(
                "the Sentinels refuse user or password; theirs (not Redis's) are HEADWATER_REDIS_SENTINEL_USERNAME and "
                "HEADWATER_REDIS_SENTINEL_PASSWORD"
            )
        case exceptions.RedisError() | exceptions.RedisClusterException() | OSError() if error := _of_certificates(exc):
            return error
        case exceptions.TimeoutError() | TimeoutError():
            return CacheUnavailable(f"Redis did not answer in time: {exc}")
        case exceptions.ConnectionError() | exceptions.ReadOnlyError() | exceptions.ClusterError() | OSError():
            return CacheUnavailable(f"Redis is not reachable: {exc}")
        case exceptions.ResponseError():
            return _of_reply(exc)
    return CacheUnavailable(f"Redis failed: {exc}")


def _refused_by_sentinels(exc: Exception) -> bool:
    return any(word in str(exc) for word in ("Authentication", "NOAUTH", "WRONGPASS", "NOPERM"))


def _of_certificates(exc: Exception) -> SettingError | None:
    text = str(exc)
    if _UNTRUSTED in text:
        return SettingError(
            f"Redis's certificate is not trusted: {text}; name the certificates (PEM) that signed it in "
            "HEADWATER_REDIS_CA, and reach Redis by a name that its certificate holds"
        )
    if any(alert in text for alert in _UNWANTED):
        return SettingError(
            f"Redis does not accept our certificate: {text}; name one (PEM) that its CA signed, and its key, in "
            "HEADWATER_REDIS_CERT and HEADWATER_REDIS_KEY"
        )
    return None


def _of_reply(exc: exceptions.ResponseError) -> HeadwaterError:
    text = str(exc)
    if text.startswith("WRONGTYPE"):
        return UsageError(f"a key of this namespace holds another type; another program uses it: {text}")
    if "OOM " in text:
        return CacheFull(f"Redis is at maxmemory and refuses writes: {text}")
    if any(refusal in text for refusal in _REFUSALS):
        return NotPermitted(f"Redis refuses an operation to this user: {text}")
    return CacheUnavailable(f"Redis answered with an error: {text}")


class _Guard:
    """Lets a call through or not, and tells the breaker how it went."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def enter(self) -> None:
        """Before a call.

        Raises:
            CacheUnavailable: the breaker is open.
        """
        if not self._breaker.calm and not self._breaker.allows():
            raise CacheUnavailable("Redis was down or too slow a moment ago, so it was not asked (circuit breaker)")

    def leave(self) -> None:
        """The call was answered. (One that its caller gave up tells nothing.)"""
        if not self._breaker.calm:
            self._breaker.record(True)

    def gave_up(self, exc: Exception) -> Exception:
        """The same of a call with little patience: that it took too long is no verdict on Redis."""
        if isinstance(exc, exceptions.TimeoutError | TimeoutError):
            return translate(exc)
        return self.failed(exc)

    def failed(self, exc: Exception) -> Exception:
        """The error to raise for ``exc``: one of ours, but for a missing script, which ``steps.evaluate`` answers."""
        if isinstance(exc, exceptions.NoScriptError):
            self._breaker.record(True)
            return exceptions.NoScriptError(*exc.args)
        error = translate(exc)
        self._breaker.record(not isinstance(error, CacheUnavailable))
        return error


class _SyncPort:
    def __init__(
        self, client: redis.Redis | redis.RedisCluster, reader: redis.Redis | redis.RedisCluster, guard: _Guard
    ) -> None:
        self._client = client
        self._reader = reader
        self._guard = guard

    def read(self, command: Command) -> Any:
        self._guard.enter()
        try:
            reply = self._reader.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
        except _FAILURES as exc:
            raise self._guard.gave_up(exc) from exc
        self._guard.leave()
        return reply

    def ask(self, command: Command) -> Any:
        self._guard.enter()
        try:
            reply = self._send(command)
        except _FAILURES as exc:
            raise self._guard.failed(exc) from exc
        self._guard.leave()
        return reply

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        self._guard.enter()
        try:
            replies = self._pipeline(commands)
        except _FAILURES as exc:
            raise self._guard.failed(exc) from exc
        self._guard.leave()
        return _translated_all(replies)

    def _send(self, command: Command) -> Any:
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return pipe.execute(raise_on_error=False)


class _BoundedSyncPort(_SyncPort):
    """With no more calls at once than connections. redis-py's clients of Sentinels and Clusters have no pool that
    waits for a free one."""

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        reader: redis.Redis | redis.RedisCluster,
        guard: _Guard,
        settings: RedisSettings,
    ) -> None:
        super().__init__(client, reader, guard)
        self._free = threading.Semaphore(settings.max_connections)
        self._free_to_read = threading.Semaphore(settings.max_connections)
        self._timeout = settings.timeout
        self._read_timeout = settings.read_timeout

    def read(self, command: Command) -> Any:
        with _one_of(self._free_to_read, self._read_timeout):
            return super().read(command)

    def ask(self, command: Command) -> Any:
        with _one_of(self._free, self._timeout):
            return super().ask(command)

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        with _one_of(self._free, self._timeout):
            return super().batch(commands)


@contextmanager
def _one_of(free: threading.Semaphore, timeout: float) -> Iterator[None]:
    if not free.acquire(timeout=timeout):
        raise CacheUnavailable(_NONE_FREE)
    try:
        yield
    finally:
        free.release()


class _SyncClusterPort(_BoundedSyncPort):
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
        guard: _Guard,
        settings: RedisSettings,
    ) -> None:
        self._client = client
        self._reader = reader
        self._guard = guard
        self._timeout = settings.timeout
        self._read_timeout = settings.read_timeout
        self._free = asyncio.Semaphore(settings.max_connections)
        self._free_to_read = asyncio.Semaphore(settings.max_connections)

    async def read(self, command: Command) -> Any:
        call = self._reader.execute_command(*command)
        return await self._guarded(call, self._free_to_read, self._read_timeout, self._guard.gave_up)

    async def ask(self, command: Command) -> Any:
        return await self._patient(self._send(command))

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        return _translated_all(await self._patient(self._pipeline(commands)))

    async def _patient(self, call: Coroutine[Any, Any, T]) -> T:
        return await self._guarded(call, self._free, self._timeout, self._guard.failed)

    async def _guarded(
        self,
        call: Coroutine[Any, Any, T],
        free: asyncio.Semaphore,
        timeout: float,
        error_for: Callable[[Exception], Exception],
    ) -> T:
        try:
            self._guard.enter()
            await self._connection(free, timeout)
        except BaseException:
            call.close()
            raise
        try:
            reply = await call
        except _FAILURES as exc:
            raise error_for(exc) from exc
        finally:
            free.release()
        self._guard.leave()
        return reply

    async def _connection(self, free: asyncio.Semaphore, timeout: float) -> None:
        """Wait for a connection to be free, as long as for an answer."""
        if not free.locked():
            await free.acquire()
            return
        try:
            await asyncio.wait_for(free.acquire(), timeout)
        except TimeoutError as exc:
            raise CacheUnavailable(_NONE_FREE) from exc

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
        self._guard = _Guard(self.breaker)
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
        except _FAILURES as exc:
            raise translate(exc) from exc
        return client, reader, SyncDriver(self._sync_port(client, reader))

    def _sync_port(
        self, client: redis.Redis | redis.RedisCluster, reader: redis.Redis | redis.RedisCluster
    ) -> _SyncPort:
        if not has_nodes(self.settings):
            return _SyncPort(client, reader, self._guard)
        return (_SyncClusterPort if self.cluster else _BoundedSyncPort)(client, reader, self._guard, self.settings)

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
_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
