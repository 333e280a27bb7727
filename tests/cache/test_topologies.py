"""Sentinel and Cluster, with real servers: the same cache behind other URLs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cache.redis_server import RedisServer, free_port
from cache.sentinels import watched
from headwater_cache import (
    Change,
    EntityCache,
    MsgpackValues,
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
def cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
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
        yield servers
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.kill()


@pytest.fixture
def cluster_url(cluster: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in cluster)


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


def test_r19_a_batch_that_no_replica_has_is_not_applied(tmp_path: Path, name: str) -> None:
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


def test_r19_a_sentinel_failover_is_followed_and_repaired(tmp_path: Path, name: str) -> None:
    """Three sentinels agree that the primary is dead; the cache finds the new one and replays what that lacks."""
    with watched(tmp_path) as servers:
        settings = RedisSettings(servers.url, timeout=1)
        with EntityCache[int](name, settings, cold="miss") as cache, servers.primary.client() as here:
            cache.check_continuity({P0: 0})
            cache.apply_many([at(0, "a")])
            here.set("last", 1)
            assert here.wait(1, 4000) == 1
            servers.await_quorum()
            cache.apply_many([at(number, f"k{number}") for number in range(1, 50)])
            servers.primary.kill()
            rewind = _until_there(cache, 50)

            assert rewind in (None, Rewind("failover", {P0: 1}))  # as quick as the replica was
            cache.apply_many([at(number, f"k{number}") for number in range(1, 50)])
            keys = ["a", *(f"k{number}" for number in range(1, 50))]
            assert cache.get_many(keys) == dict.fromkeys(keys, 1)
            assert cache.check_continuity({P0: 50}) is None


async def test_slots_that_move_are_followed(cluster: list[RedisServer], cluster_url: str, name: str) -> None:
    """Every slot of one primary moves to another while keys are written, read and applied."""
    log = MemoryLog("flights.changes")
    keys = [f"k{number}" for number in range(40)]
    with EntityCache[int](name, RedisSettings(cluster_url, timeout=1), log=log, cold="miss") as cache:
        for key in keys:
            cache.put(key, 1)
        source, target = cluster[0], cluster[1]
        names = _slots_of(source, name)
        assert names
        moved = 0
        for slot, held in names.items():
            mine = [key for key in keys if f"{{{name}:1:{key}}}".encode() in held]
            moved += len(mine)

            def write(mine: list[str] = mine) -> None:
                for key in mine:
                    cache.put(key, 2)
                    assert cache.get(key) == 2

            _move(slot, source, target, cluster, write)
            assert len(cache.get_many(keys)) == 40
        assert moved > 5
        assert not _slots_of(source, name)
        cache.apply_many(log.changes, positions={})

        truth = {change.key: MsgpackValues[int]().decode(0, change.value or b"") for change in log.changes}
        assert cache.get_many(keys) == truth
        assert await cache.aget_many(keys) == truth
        await cache.aclose()


def _slots_of(server: RedisServer, name: str) -> dict[int, list[bytes]]:
    with server.client() as client:
        found: dict[int, list[bytes]] = {}
        for key in client.scan_iter(f"*{name}*"):
            found.setdefault(_do(client, "CLUSTER", "KEYSLOT", key), []).append(key)
        return found


def _move(
    slot: int,
    source: RedisServer,
    target: RedisServer,
    cluster: list[RedisServer],
    between: Callable[[], object],
) -> None:
    """As `redis-cli --cluster reshard` does it; ``between``: while the slot is half moved."""
    with source.client() as old, target.client() as new:
        old_id, new_id = (_do(client, "CLUSTER", "MYID") for client in (old, new))
        _do(new, "CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        _do(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        between()
        left = _do(old, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if left:
            _do(old, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *left)
        between()
        for server in (target, source, *cluster):
            with server.client() as client:
                _do(client, "CLUSTER", "SETSLOT", slot, "NODE", new_id)


def _until_there(cache: EntityCache[int], position: int) -> Rewind | None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return cache.check_continuity({P0: position})
        except CacheUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
