"""The life of a stack, shown with its quickest part: only Redis is started, unless a test says otherwise."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from headwater_ops.stack import Stack, environment
from headwater_ops.stack.errors import PortTaken, StartFailed, StateMismatch, UsageError
from headwater_ops.stack.kafka import Broker
from headwater_ops.stack.part import Part
from headwater_ops.stack.ports import HOST, choose
from headwater_ops.stack.registry import Registry

pytestmark = pytest.mark.integration


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "state", ports="free")
    yield stack
    stack.down(wipe=True)


def up(stack: Stack) -> str:
    return stack.up("redis", timeout=20).redis_url


def pid(stack: Stack) -> int:
    (found,) = (part.pid for part in stack.status() if part.name == "redis")
    assert found is not None
    return found


def port(url: str) -> int:
    return int(url.rpartition(":")[2].removesuffix("/0"))


@pytest.fixture
def mute_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of one's own before the real ``redis-server``."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "redis-server"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_a_second_up_changes_nothing(small: Stack) -> None:
    url = up(small)
    before = pid(small)

    assert up(small) == url
    assert pid(small) == before


def test_two_ups_at_once_start_one_stack(small: Stack) -> None:
    with ThreadPoolExecutor(2) as pool:
        urls = set(pool.map(lambda _: up(small), range(2)))

    assert len(urls) == 1
    with redis.Redis.from_url(urls.pop()) as client:
        assert client.info()["process_id"] == pid(small)


def test_down_may_be_repeated_and_keeps_the_ports(small: Stack) -> None:
    url = up(small)

    small.down()
    small.down()

    assert not any(part.pid for part in small.status())
    assert up(small) == url


def test_wipe_removes_the_state(small: Stack) -> None:
    up(small)

    small.down(wipe=True)

    assert small.status() == []
    assert not (small.state_dir / "stack").exists()


def test_down_where_nothing_ever_ran_is_fine(tmp_path: Path) -> None:
    Stack(tmp_path / "new").down(wipe=True)


def test_up_replaces_a_part_that_crashed(small: Stack) -> None:
    url = up(small)
    small.kill("redis")

    assert up(small) == url

    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_up_replaces_a_server_that_runs_but_does_not_answer(small: Stack) -> None:
    """As an ``up`` that was killed half-way may leave it."""
    url = up(small)
    stuck = pid(small)
    small.kill("redis", signal.SIGSTOP)

    assert small.up("redis", timeout=4).redis_url == url

    assert pid(small) != stuck
    assert not psutil.pid_exists(stuck) or psutil.Process(stuck).status() == psutil.STATUS_ZOMBIE


def test_down_finds_parts_without_a_layout(small: Stack) -> None:
    up(small)
    running = pid(small)
    (small.state_dir / "stack" / "layout.json").unlink()

    small.down()

    assert not psutil.pid_exists(running) or psutil.Process(running).status() == psutil.STATUS_ZOMBIE


def test_a_part_that_ends_at_once_is_told_with_its_log(small: Stack, mute_redis: Callable[[str], None]) -> None:
    mute_redis("echo no luck today; exit 3")

    with pytest.raises(StartFailed, match=r"redis (ended|was not ready).*\n.*no luck today"):
        up(small)

    assert not any(part.pid for part in small.status())


def test_a_part_that_never_serves_is_stopped_and_its_log_named(small: Stack, mute_redis: Callable[[str], None]) -> None:
    mute_redis("echo thinking; exec sleep 600")

    with pytest.raises(StartFailed, match=r"redis was not ready within 1 s; the end of .*redis\.log:\n.*thinking"):
        small.up("redis", timeout=1)

    assert not any(part.pid for part in small.status())


def test_what_was_ready_before_another_part_failed_is_stopped_and_what_ran_before_goes_on(
    small: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.up("redis")
    ran = {part.name: part.pid for part in small.status()}
    ready = threading.Event()

    def start(self: Broker, timeout: float) -> None:
        Part.start(self, timeout)
        ready.set()

    def fail(self: Registry, timeout: float) -> None:
        assert ready.wait(timeout)
        raise StartFailed("on purpose")

    monkeypatch.setattr(Broker, "start", start)
    monkeypatch.setattr(Registry, "start", fail)
    with pytest.raises(StartFailed, match="on purpose"):
        small.up()

    left = {part.name: part.pid for part in small.status() if part.pid}
    assert left == {"redis": ran["redis"]}


def test_a_port_that_someone_else_took_is_replaced(small: Stack) -> None:
    url = up(small)
    small.down()

    with socket.create_server((HOST, port(url))):
        assert up(small) != url


def test_the_usual_port_or_an_error(small: Stack) -> None:
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]

        with pytest.raises(PortTaken, match=f"port {taken}, the usual one of redis, is in use: stop the program"):
            choose("usual", taken, (), "redis")
        assert choose("auto", taken, (), "redis") != taken


def test_a_started_part_refuses_a_port_that_is_taken(small: Stack) -> None:
    url = up(small)
    small.stop("redis")

    with (
        socket.create_server((HOST, port(url))),
        pytest.raises(PortTaken, match=r"port \d+ \(redis, client\) is in use"),
    ):
        small.start("redis")


def test_an_unknown_part_names_those_there_are(small: Stack) -> None:
    up(small)

    with pytest.raises(UsageError, match="no part 'broker-2'; the parts here: broker-1, redis, registry"):
        small.kill("broker-2")


def test_killing_what_does_not_run_is_told(small: Stack) -> None:
    up(small)

    with pytest.raises(UsageError, match="registry does not run"):
        small.kill("registry")


def test_another_number_of_brokers_is_refused(small: Stack) -> None:
    up(small)

    with pytest.raises(StateMismatch, match=r"holds 1 broker\(s\), 3 are asked for: headwater down --wipe"):
        Stack(small.state_dir, brokers=3).up("redis")


@pytest.mark.parametrize("brokers", [0, 2, 4])
def test_a_cluster_has_one_or_three_brokers(tmp_path: Path, brokers: int) -> None:
    with pytest.raises(UsageError, match="pass 1, or 3"):
        Stack(tmp_path, brokers=brokers)


def test_a_damaged_layout_is_told(small: Stack) -> None:
    up(small)
    (small.state_dir / "stack" / "layout.json").write_text("{")

    with pytest.raises(StateMismatch, match="headwater down --wipe"):
        small.up("redis")

    small.down(wipe=True)
    assert up(small)


def test_commands_find_a_running_stack(stack: Stack) -> None:
    there = {"HEADWATER_STATE_DIR": str(stack.state_dir)}
    endpoints = stack.endpoints()

    assert endpoints is not None
    for name, value in endpoints.settings().items():
        assert environment(there).text(name) == value


def test_one_named_server_leaves_the_embedded_stack_out(stack: Stack) -> None:
    named = {"HEADWATER_STATE_DIR": str(stack.state_dir), "HEADWATER_KAFKA_BOOTSTRAP": "kafka.example:9092"}

    env = environment(named)

    assert env.text("HEADWATER_KAFKA_BOOTSTRAP") == "kafka.example:9092"
    assert env.text("HEADWATER_REDIS_URL") == "redis://127.0.0.1:6379/0"


def test_a_stack_of_which_a_part_is_down_is_not_used(stack: Stack) -> None:
    stack.stop("redis")

    assert stack.endpoints() is None
    assert (
        environment({"HEADWATER_STATE_DIR": str(stack.state_dir)}).text("HEADWATER_KAFKA_BOOTSTRAP").endswith(":9092")
    )


def test_schema_ids_survive_a_crash_of_the_registry(stack: Stack, unique: Callable[[str], str]) -> None:
    endpoints = stack.endpoints()
    assert endpoints is not None
    name = unique("R").replace("-", "_")
    schema = f'{{"type":"record","name":"{name}","fields":[]}}'
    versions = f"{endpoints.registry_url}/subjects/{name}/versions"
    schema_id = httpx.post(versions, json={"schema": schema}, timeout=10).json()["id"]

    stack.kill("registry")
    stack.start("registry")

    found = httpx.get(f"{endpoints.registry_url}/schemas/ids/{schema_id}", timeout=10)
    assert found.json()["schema"] == schema
