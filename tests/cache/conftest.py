"""One Redis for the tests that only need names of their own, on a free port: they may not disturb the shared stack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cache.redis_server import RedisServer
from cache.resp import RespPort
from headwater_cache import settings
from headwater_cache.scripts import SCRIPTS
from headwater_ops.testing.proxy import Proxy

_names = itertools.count(1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that only need names of their own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own: to restrict, to empty, to kill."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that counts reads."""
    server = RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lfu", "--lfu-log-factor", "0")
    yield server
    server.kill()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """Between a test and the shared server, to slow down, to silence, to cut."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def patient_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no silent Redis; tests of that pass their own ``read_timeout``."""
    monkeypatch.setattr(settings, "READ_TIMEOUT", 10)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A bare client, to look and to interfere."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def port(redis_server: RedisServer) -> Iterator[RespPort]:
    """A bare connection on which the scripts are known."""
    port = RespPort(redis_server.port)
    for script in SCRIPTS:
        port.ask(("SCRIPT", "LOAD", script.source))
    yield port
    port.close()


@pytest.fixture
def name() -> str:
    """A namespace that no other test uses."""
    return f"flights-{next(_names)}"
