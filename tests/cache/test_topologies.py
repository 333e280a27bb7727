"""Sentinel and Cluster, with real servers: the same cache behind other URLs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from cache.redis_server import RedisServer, free_port
from cache.sentinels import folder_of, sentinel_of, watched
from headwater_cache import (
    Change,
    ContinuityLost,
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
from headwater_cache.topology import async_client, sync_client
from headwater_schemas.errors import CacheUnavailable, NotPermitted, SettingError, UsageError
from headwater_schemas.settings import Environment

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
        _until_whole(servers)
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


def _until_whole(servers: list[RedisServer]) -> None:
    """Until each of them finds all slots served."""
    deadline = time.monotonic() + 15
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for server in servers]
        while not all(_whole(client) for client in clients):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.05)


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


def test_r19_a_shard_that_comes_back_empty_makes_every_consumer_of_a_view_go_back(
    cluster: list[RedisServer], cluster_url: str, name: str
) -> None:
    """The watermarks are on another shard and are still there; each partition is told for itself (R19, R20)."""
    batches = {
        TopicPartition("flights.changes", number): [f"p{number}k{key}" for key in range(20)] for number in (0, 1)
    }

    def apply(cache: EntityCache[int], place: TopicPartition) -> None:
        cache.apply_many(
            [Change(key, log_version(1, at), b"\x01", 0, Position(*place, at)) for at, key in enumerate(batches[place])]
        )

    with ExitStack() as stack:
        consumers = {
            place: stack.enter_context(EntityCache[int](name, RedisSettings(cluster_url, timeout=1)))
            for place in batches
        }
        for place, cache in consumers.items():
            apply(cache, place)
            cache.mark_ready(positions={place: 20}, total=2)
        for place, cache in consumers.items():
            cache.mark_ready(positions={place: 20}, total=2)
        watermark = f"{{{name}:1}}:watermark".encode()
        held = {server: _slots_of(server, name).values() for server in cluster}
        other = next(server for server in cluster if not any(watermark in names for names in held[server]))
        other.kill()
        other.start()
        _until_whole(cluster)

        for place, cache in consumers.items():
            with pytest.raises(ContinuityLost) as lost:
                cache.mark_ready(positions={place: 20}, total=2)
            assert lost.value.rewind == Rewind("emptied", {place: 0})
            with pytest.raises(ContinuityLost):
                apply(cache, place)
            apply(cache, place)
            cache.mark_ready(positions={place: 20}, total=2)
            assert cache.get_many(batches[place]) == dict.fromkeys(batches[place], 1)


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


def test_sentinels_that_are_not_there_are_told_at_once(name: str) -> None:
    """redis-py by itself tries each of them ten times more, for eight seconds."""
    settings = RedisSettings("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main/0", timeout=0.2)
    with EntityCache[int](name, settings) as cache:
        began = time.monotonic()
        with pytest.raises(CacheUnavailable):
            cache.check()
        assert time.monotonic() - began < 3


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and one sentinel that decides alone."""
    primary = RedisServer(folder_of(tmp_path, "primary"))
    sentinel = sentinel_of(folder_of(tmp_path, "sentinel"), primary.port, quorum=1)
    try:
        yield primary, sentinel
    finally:
        sentinel.kill()
        primary.kill()


@pytest.mark.parametrize("user", [None, "headwater"])
async def test_sentinels_that_ask_for_a_password_get_it(
    lone: tuple[RedisServer, RedisServer], name: str, user: str | None
) -> None:
    """A user of theirs, which Redis does not know; threads, coroutines, and the channel of a near cache."""
    _, sentinel = lone
    with sentinel.client() as client:
        if user:
            _do(client, "ACL", "SETUSER", user, "on", "+@all", ">s3cret")
        _do(client, "ACL", "SETUSER", "default", "resetpass", ">s3cret" if user is None else ">other")
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
    right = RedisSettings(url, timeout=1, sentinel_username=user, sentinel_password="s3cret")
    with EntityCache[int](name, right, log=MemoryLog(), near=NearPolicy()) as cache:
        cache.put("a", 1)
        assert cache.get("a") == 1
        assert await cache.aget_many(["a"]) == {"a": 1}
        await cache.aclose()
    for wrong in (RedisSettings(url, timeout=1), RedisSettings(url, timeout=1, sentinel_password="wr0ng")):
        with EntityCache[int](name, wrong) as cache:
            with pytest.raises(NotPermitted, match="HEADWATER_REDIS_SENTINEL_PASSWORD") as refused:
                cache.check()
            with pytest.raises(NotPermitted, match="HEADWATER_REDIS_SENTINEL_PASSWORD"):
                await cache.acheck()
            assert "wr0ng" not in str(refused.value) + repr(wrong)
            await cache.aclose()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "redis://127.0.0.1", "sentinel_password": "x"}, "names no Sentinels"),
        ({"url": "redis+sentinel://127.0.0.1:1/main", "sentinel_username": "x"}, "without"),
    ],
)
def test_a_user_of_sentinels_needs_sentinels_and_a_password(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RedisSettings(**settings)  # type: ignore[arg-type]  # all of these are texts


def test_connections_and_retries_come_from_the_environment() -> None:
    env = {"HEADWATER_REDIS_MAX_CONNECTIONS": "7", "HEADWATER_REDIS_RETRIES": "0"}
    settings = RedisSettings.from_env(Environment(env))

    assert (settings.max_connections, settings.retries) == (7, 0)
    for name, text in (("HEADWATER_REDIS_MAX_CONNECTIONS", "0"), ("HEADWATER_REDIS_RETRIES", "9")):
        with pytest.raises(SettingError, match=name):
            RedisSettings.from_env(Environment({name: text}))


def test_each_client_has_no_more_connections_than_it_may() -> None:
    """By Sentinels as well; a Cluster's client has so many to each node."""
    for url in ("redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main"):
        settings = RedisSettings(url, max_connections=3)
        for client in (sync_client(settings), async_client(settings)):
            assert client.connection_pool.max_connections == 3  # type: ignore[union-attr]  # no Cluster


async def test_callers_wait_for_a_connection_behind_sentinels(lone: tuple[RedisServer, RedisServer], name: str) -> None:
    """Twenty threads share two connections, and so do coroutines; nobody fails."""
    primary, sentinel = lone
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
    with EntityCache[int](name, RedisSettings(url, timeout=5, max_connections=2), cold="miss") as cache:
        await _use_at_once(cache)
        assert _connections(primary) <= 4  # threads two, coroutines two
        await cache.aclose()


async def test_callers_wait_for_a_connection_to_a_cluster(
    cluster: list[RedisServer], cluster_url: str, name: str
) -> None:
    with EntityCache[int](name, RedisSettings(cluster_url, timeout=5, max_connections=2), cold="miss") as cache:
        await _use_at_once(cache)
        assert max(map(_connections, cluster)) <= 8  # two kinds of client for each of both
        await cache.aclose()


async def _use_at_once(cache: EntityCache[int]) -> None:
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(cache.get, [f"k{number}" for number in range(200)])) == [None] * 200
    assert await asyncio.gather(*(cache.aget(f"k{number}") for number in range(200))) == [None] * 200


def _connections(server: RedisServer) -> int:
    """From clients with a name or without, but for sentinels, nodes of a cluster and the one that asks."""
    with server.client() as client:
        others = [each for each in client.client_list() if "sentinel" not in each["name"] and each["flags"] == "N"]
        return len(others) - 1


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
