"""``headwater cache`` on the real Kafka and a real Redis. The changes are JSON, so no registry need start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner, Result

from cache.redis_server import RedisServer, free_port
from cache.table import Table
from headwater_cache import EntityCache, Loaded
from headwater_cache.space import EPOCH_CHECK_SECONDS
from headwater_ops import warming
from headwater_ops.commands.cache import app
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError
from headwater_schemas.settings import Environment

Run = Callable[..., Result]
Change = Callable[[str, Any], None]
GRACE = warming._GRACE


@pytest.fixture
def run(redis_url: str) -> Run:
    """Runs the command as a shell would, where only Redis is needed."""
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env=_settings(redis_url))


@pytest.fixture
def entity(bootstrap: str, unique: Callable[[str], str]) -> str:
    """An entity whose change topic exists, with two partitions."""
    name = unique("plane")
    topic = NewTopic(f"{name}.changes", num_partitions=2, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([topic])[topic.topic].result(30)
    return name


@pytest.fixture
def follow(bootstrap: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, with Kafka; nobody else reads the epochs that it retires."""
    monkeypatch.setattr(warming, "_GRACE", 0)
    env = _settings(redis_url) | {"HEADWATER_KAFKA_BOOTSTRAP": bootstrap}
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env=env)


@pytest.fixture
def change(bootstrap: str, entity: str) -> Change:
    """Writes a change of the entity to its topic, acknowledged, as Debezium's flat records are."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})

    def write(key: str, value: Any) -> None:
        record = {"__op": "d"} if value is None else {**value, "__op": "u"}
        producer.produce(f"{entity}.changes", json.dumps(record).encode(), key, partition=sum(key.encode()) % 2)
        assert producer.flush(30) == 0

    return write


def _settings(redis_url: str) -> dict[str, str]:
    return {"HEADWATER_REDIS_URL": redis_url, "HEADWATER_REGISTRY_URL": "http://127.0.0.1:1"}


def test_a_view_is_warmed_read_and_explained(follow: Run, change: Change, entity: str, bootstrap: str) -> None:
    """From the topic alone; run again it fills the next epoch, and poison hides what it would have changed."""
    for number in range(20):
        change(f"N{number}", {"seats": number})
    change("N3", None)

    warmed = follow("warm", entity)
    assert warmed.exit_code == 0, warmed.output
    assert "21 changes applied to epoch 2, now live" in warmed.output
    assert json.loads(follow("get", entity, "N7", "--json").stdout)["value"] == {"seats": 7}
    assert follow("get", entity, "N3").exit_code == 1
    explained = json.loads(follow("explain", entity, "N7", "--json").stdout)
    assert (explained["state"], explained["epoch"], explained["ready"]) == ("V", 2, [2, 2])
    assert "not found" in follow("explain", entity, "N3").stdout
    counted = json.loads(follow("stats", entity, "--json").stdout)
    assert (counted["epoch"], counted["entries"], counted["states"]) == (2, 20, {"V": 19, "T": 1})
    assert sum(counted["watermarks"].values()) == 21

    poison = Producer({"bootstrap.servers": bootstrap})
    poison.produce(f"{entity}.changes", b"poison", "N7", partition=sum(b"N7") % 2)
    poison.flush(30)
    assert "epoch 3, now live" in follow("warm", entity).output
    assert json.loads(follow("explain", entity, "N7", "--json").stdout)["state"] == "F"


def test_a_retired_epoch_is_deleted_when_nobody_can_read_it_any_more(
    follow: Run, change: Change, entity: str, bootstrap: str, redis_url: str
) -> None:
    """Another process looks every five seconds which epoch is live; so long it reads the retired one."""
    change("N1", {"seats": 1})
    assert follow("warm", entity).exit_code == 0
    env = Environment(_settings(redis_url) | {"HEADWATER_KAFKA_BOOTSTRAP": bootstrap})
    waited: list[float] = []
    with redis.Redis.from_url(redis_url) as client:

        def sleep(duration: float) -> None:
            waited.append(duration)
            assert client.get(f"{entity}:epoch") == b"3"
            assert client.exists(f"{{{entity}:2:N1}}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(warming, "_GRACE", GRACE)
            warming.warm_view(env, entity, None, topic_epoch=0, rate=50_000, swap=True, sleep=sleep)

        assert waited[0] > EPOCH_CHECK_SECONDS
        assert not client.exists(f"{{{entity}:2:N1}}")


def test_a_filling_that_takes_as_long_as_deletions_live_is_warned_of(
    follow: Run, change: Change, entity: str, bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next time a key that is deleted meanwhile might come back (R15)."""
    change("N1", {"seats": 1})
    assert follow("warm", entity).exit_code == 0
    assert "delete.retention.ms" not in caplog.text
    entry = ConfigEntry("delete.retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, f"{entity}.changes", incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(30)

    assert follow("warm", entity).exit_code == 0
    assert "delete.retention.ms" in caplog.text


def test_an_audit_tells_a_view_that_stands_still(follow: Run, change: Change, entity: str, redis_url: str) -> None:
    """Nobody applies the change: it is wrong after a second, and said so; poison between is passed over."""
    change("N1", {"seats": 1})
    assert follow("warm", entity).exit_code == 0
    with EntityCache[Any](entity, redis_url) as cache:
        assert cache.get("N1") == {"seats": 1}
    writer = threading.Timer(1.0, change, ("N1", {"seats": 2}))
    writer.start()
    audited = json.loads(follow("audit", entity, "--share", 1, "--seconds", 4, "--json").stdout)
    writer.join()

    (report,) = audited["entities"]
    assert report["report"]["violations"] == {"1": 1}
    assert report["consistent"] == {"1": 0.0}
    assert audited["violations"][0]["key"] == "N1"


def test_an_audit_of_a_cache_goes_by_the_versions_of_its_source(
    follow: Run, change: Change, entity: str, redis_url: str
) -> None:
    """An older value that is served is wrong; what is absent is not, and neither is what the source has newer."""
    with EntityCache(entity, redis_url, mode="cache", source=Table(), domain="lsn") as cache:
        cache.put("old", 1)
        cache.put("new", 2)
    for row in (("old", {"__lsn": 9}), ("new", {"__lsn": 1}), ("absent", {"__lsn": 9})):
        writer = threading.Timer(1.0, change, row)
        writer.start()
    options = ("--mode", "cache", "--domain", "lsn", "--share", 1, "--seconds", 4, "--json")
    audited = json.loads(follow("audit", entity, *options).stdout)
    writer.join()

    assert [violation["key"] for violation in audited["violations"]] == ["old"]
    assert audited["entities"][0]["report"]["checked"] == {"1": 3}


def test_the_auditor_serves_nines_until_it_is_told_to_stop(
    change: Change, entity: str, redis_url: str, bootstrap: str
) -> None:
    """As a process: ready when it has looked, a violation in the metrics, a clean end."""
    address = f"127.0.0.1:{free_port()}"
    env = _settings(redis_url) | {"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, "HEADWATER_AUDIT_HTTP": address}
    command = [sys.executable, "-m", "headwater_ops.cli", "cache", "audit", entity, "--serve", "--share", "1"]
    with EntityCache[Any](entity, redis_url) as cache:
        cache.check()
    with subprocess.Popen(command, env=os.environ | env, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until(lambda: _get(address, "/readyz") is not None, process)
            change("N1", {"seats": 2})
            sample = f'headwater_cache_consistency_violations_total{{age="1",entity="{entity}"}} 1.0'
            _until(lambda: sample in (_get(address, "/metrics") or ""), process)
            assert f'headwater_cache_consistency_nines{{entity="{entity}",within="1"}} 0.0' in str(
                _get(address, "/metrics")
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def _get(address: str, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return None


def _until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def test_stats_count_what_is_there(run: Run, redis_url: str, name: str, raw: redis.Redis) -> None:
    """By state, with sizes; a limit makes it a sample."""
    table = Table()
    with EntityCache(name, redis_url, mode="cache", source=table) as cache:
        for number in range(50):
            cache.put(f"k{number}", number)
        cache.delete("k0")
        cache.get("missing")
        table.write("fenced", 1)
        cache.apply_many(table.events[-1:], positions={})
    raw.set(f"{{{name}:1:foreign}}", "hello")
    raw.set(f"{{{name}:1:k1}}:l", "token")

    counted = json.loads(run("stats", name, "--json").stdout)
    assert (counted["states"], counted["conflicts"]) == ({"V": 49, "T": 1, "N": 1, "F": 1, "?": 1}, 0)
    assert json.loads(run("stats", name, "--domain", "lsn", "--json").stdout)["conflicts"] == 52
    assert (counted["entries"], counted["complete"], counted["leases"]) == (53, True, 1)
    assert counted["payload_bytes"] == 1.0
    assert 100 < counted["redis_bytes"] < 400
    assert "entries" in run("stats", name).stdout


def test_a_cache_on_a_redis_that_does_not_evict_is_read_as_a_cache(run: Run, redis_url: str, name: str) -> None:
    """What has expired, or was invalidated, is not found; an absent key too, without talk of a view."""
    clock = ManualClock(time.time() - 7200)
    with EntityCache(name, redis_url, mode="cache", source=Table()) as cache:
        cache.put("k", 1)
        cache.load("tagged", lambda: Loaded(1, 1, ("t",)))
        assert [run("get", name, key).stdout for key in ("k", "tagged")] == ["1\n", "1\n"]
        cache.invalidate_tags("t")
        with EntityCache(name, redis_url, mode="cache", source=Table(), clock=clock) as past:
            past.put("expired", 1)

        for key, why in (("tagged", "a tag of it"), ("expired", "its version still"), ("absent", "nothing is stored")):
            result = run("get", name, key)
            assert (result.exit_code, result.stdout) == (1, "")
            assert why in result.stderr


def test_an_absent_key_of_nobody_knows_what_names_the_way_out(run: Run, name: str) -> None:
    """It may be a view that is not ready, or an empty cache: the mode can be passed."""
    assert "pass the mode" in str(run("get", name, "k").exception)
    assert "nothing is stored" in run("get", name, "k", "--mode", "cache").stderr


def test_a_key_and_a_tag_are_invalidated(run: Run, redis_url: str, name: str) -> None:
    """The next read asks the source."""
    with EntityCache(name, redis_url, mode="cache", source=Table()) as cache:
        cache.put("k", 1)
        assert "k: invalidated" in run("invalidate", name, "k").stdout
        assert cache.explain("k").state == "F"
        assert "was absent" in run("invalidate", name, "other").stdout

        values = iter([1, 2])
        assert cache.load("t", lambda: Loaded(next(values), 1, ("carrier:UA",))).value == 1
        assert run("invalidate", name, "--tag", "carrier:UA").exit_code == 0
        assert cache.load("t", lambda: Loaded(next(values), 1, ("carrier:UA",))).value == 2


def test_a_view_is_not_invalidated(run: Run, redis_url: str, name: str) -> None:
    """There is nothing to read its keys from; a fence would hide the key until the log is replayed."""
    from headwater_cache.testing import MemoryLog

    with EntityCache[int](name, redis_url, log=MemoryLog()) as view:
        view.put("k", 1)
        for what in (("k",), ("--tag", "t")):
            refused = run("invalidate", name, *what)

            assert isinstance(refused.exception, UsageError)
            assert "warm" in str(refused.exception)
        assert view.get("k") == 1


def test_a_redis_that_evicts_is_looked_into_as_well(tmp_path: Path, name: str) -> None:
    """As the Redis of a cache does, where a view would be refused."""
    server = RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lfu")
    env = _settings(server.url)
    try:
        with EntityCache(name, server.url, mode="cache", source=Table()) as cache:
            cache.put("k", 1)
        for command in (("get", name, "k"), ("explain", name, "k"), ("stats", name), ("invalidate", name, "k")):
            result = CliRunner().invoke(app, command, env=env)
            assert result.exit_code == 0, (command, result.output, result.exception)
    finally:
        server.kill()


def test_wrong_use_says_what_to_pass(run: Run, name: str) -> None:
    """Nothing to invalidate; one topic for two views."""
    assert "KEYs, or --tag" in str(run("invalidate", name).exception)
    assert "single ENTITY" in str(run("audit", "one", "two", "--topic", "t").exception)
