"""Sentinel and Cluster, with real servers: the same cache behind other URLs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cache.redis_server import RedisServer, free_port
from headwater_cache import (
    Change,
    EntityCache,
    NearPolicy,
    Position,
    RedisSettings,
    Rewind,
    TopicPartition,
    log_version,
)
from headwater_cache.testing import MemoryLog
from headwater_schemas.errors import CacheUnavailable, SettingError, UsageError

P0 = TopicPartition("flights.changes", 0)


def at(offset: int, key: str) -> Change:
    return Change(key, log_version(1, offset), b"\x01", 0, Position(*P0, offset))


@pytest.fixture
def cluster_url(tmp_path: Path) -> Iterator[str]:
    """Three primaries that share the slots."""
    arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        servers.append(RedisServer(folder, *arguments, "--cluster-port", str(free_port())))
    clients = [server.client() for server in servers]
    try:
        for number, client in enumerate(clients):
            _do(client, "CLUSTER", "ADDSLOTSRANGE", number * 5462, min(16383, (number + 1) * 5462 - 1))
        bus = clients[0].config_get("cluster-port")["cluster-port"]
        for client in clients[1:]:
            _do(client, "CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
        deadline = time.monotonic() + 15
        while not all(_whole(client) for client in clients):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.05)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.kill()


def _do(client: redis.Redis, *command: object) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py


def _whole(client: redis.Redis) -> bool:
    info = _do(client, "CLUSTER", "INFO")
    text = info.decode() if isinstance(info, bytes) else "\n".join(f"{name}:{value}" for name, value in info.items())
    return "cluster_state:ok" in text and "cluster_known_nodes:3" in text


async def test_a_cluster_holds_a_view(cluster_url: str, name: str) -> None:
    """Keys on every node, entry and lease side by side; threads and coroutines."""
    log = MemoryLog("flights.changes")
    keys = [f"k{number}" for number in range(30)]
    with EntityCache[int](name, RedisSettings(cluster_url, timeout=1), log=log) as cache:
        for key in keys[:10]:
            cache.put(key, 1)
        assert cache.check_continuity({P0: 0}) is None
        cache.apply_many([*log.changes, *(at(10 + number, key) for number, key in enumerate(keys[10:]))])

        assert cache.get_many(keys) == dict.fromkeys(keys, 1)
        assert await cache.aget_many(keys) == dict.fromkeys(keys, 1)
        assert (await cache.adelete("k3")).version == log_version(1, 10)
        assert cache.get("k3") is None
        assert cache.check_continuity({P0: 30}) is None
        await cache.aclose()


def test_a_near_cache_is_refused_in_a_cluster() -> None:
    """It would hear of a third of the writes."""
    with pytest.raises(UsageError, match="one primary"):
        EntityCache[int]("flights", "redis+cluster://127.0.0.1:1", near=NearPolicy())


def test_a_cluster_that_is_away_is_unavailable() -> None:
    """As a single server is."""
    with EntityCache[int]("flights", RedisSettings("redis+cluster://127.0.0.1:1", timeout=0.1)) as cache:
        with pytest.raises(CacheUnavailable):
            cache.get("a")


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1", "redis+cluster://127.0.0.1", "redis+cluster://"])
def test_an_incomplete_url_says_what_is_missing(url: str) -> None:
    """Before anything is connected."""
    with EntityCache[int]("flights", url) as cache, pytest.raises(SettingError, match="host:port"):
        cache.get("a")


def test_a_batch_that_no_replica_has_is_not_applied(tmp_path: Path, name: str) -> None:
    """With ``replicas=1`` its watermark stands still until one has it (R19)."""
    for part in ("primary", "replica"):
        (tmp_path / part).mkdir()
    primary = RedisServer(tmp_path / "primary", "--repl-diskless-sync-delay", "0")
    replica = RedisServer(
        tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"
    )
    try:
        settings = RedisSettings(primary.url, timeout=1, replicas=1)
        with EntityCache[int](name, settings, cold="miss") as cache, primary.client() as here:
            here.set("first", 1)
            assert here.wait(1, 5000) == 1
            cache.check_continuity({P0: 0})
            cache.apply_many([at(0, "a")])
            with replica.client() as there:
                assert there.exists(f"{{{name}:1:a}}") == 1
            replica.kill()
            with pytest.raises(CacheUnavailable, match="0 of 1 replicas"):
                cache.apply_many([at(1, "b")])
            assert cache.explain("b").watermarks == {"flights.changes:0": 1}
    finally:
        replica.kill()
        primary.kill()


@pytest.mark.parametrize(
    ("url", "replicas"), [("redis://127.0.0.1", -1), ("redis+cluster://127.0.0.1:1", 1)], ids=["negative", "cluster"]
)
def test_a_number_of_replicas_that_can_not_be_is_refused(url: str, replicas: int) -> None:
    """WAIT speaks for one primary."""
    with pytest.raises(SettingError, match="REPLICAS"):
        RedisSettings(url, replicas=replicas)


def test_a_sentinel_failover_is_followed_and_repaired(tmp_path: Path, name: str) -> None:
    """The primary dies; the cache finds the new one, and is told to rewind if that lacks what was applied (R19)."""
    for part in ("primary", "replica", "sentinel"):
        (tmp_path / part).mkdir()
    primary = RedisServer(tmp_path / "primary", "--repl-diskless-sync-delay", "0")
    replica = RedisServer(
        tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"
    )
    config = tmp_path / "sentinel" / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n"
    )
    sentinel = RedisServer(tmp_path / "sentinel", "--sentinel", config=config)
    try:
        settings = RedisSettings(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0", timeout=1)
        with EntityCache[int](name, settings, cold="miss") as cache, primary.client() as here:
            cache.check_continuity({P0: 0})
            cache.apply_many([at(0, "a")])
            here.set("last", 1)
            assert here.wait(1, 4000) == 1
            cache.apply_many([at(1, "b")])
            primary.kill()
            rewind = _until_there(cache)

            assert rewind in (None, Rewind("failover", {P0: 1}))  # as quick as the replica was
            cache.apply_many([at(1, "b")])
            assert cache.get_many(["a", "b"]) == {"a": 1, "b": 1}
            assert cache.check_continuity({P0: 2}) is None
    finally:
        for server in (sentinel, replica, primary):
            server.kill()


def _until_there(cache: EntityCache[int]) -> Rewind | None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return cache.check_continuity({P0: 2})
        except CacheUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
