"""Fixtures of every test: the real servers, started when the first test asks for them, and names nobody else uses.

A test asks for what it needs: ``bootstrap``, ``redis_url``, ``registry_url``, or ``endpoints`` for all three. Only that
is started, once per run. ``HEADWATER_TEST_BACKEND`` says where the servers are:

* ``embedded`` (default): processes of this machine, on free ports, in a temporary folder;
* ``containers``: what ``compose.yaml`` describes, started by Docker; also the default where Docker answers and has
  the images already;
* ``external``: servers that ``HEADWATER_KAFKA_BOOTSTRAP``, ``HEADWATER_REDIS_URL`` and ``HEADWATER_REGISTRY_URL`` name.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from backends.backend import Backend, chosen
from backends.embedded import embedded
from headwater_ops.stack import Endpoints, Stack
from headwater_schemas.settings import Environment

# How long an example takes says nothing here: servers and other tests share the processor.
settings.register_profile("shared", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

_SERVERS = {"bootstrap", "redis_url", "registry_url", "endpoints", "env", "stack"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a server is an integration test; nobody has to remember the marker."""
    for item in items:
        if _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def _embedded_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with embedded(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def _backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with chosen(lambda: request.getfixturevalue("_embedded_stack")) as backend:
        yield backend


@pytest.fixture(scope="session")
def bootstrap(_backend: Backend) -> str:
    """``host:port`` of a running Kafka, shared by the whole run."""
    return _backend.up("kafka").bootstrap


@pytest.fixture(scope="session")
def redis_url(_backend: Backend) -> str:
    """URL of a running Redis, shared by the whole run: use keys of your own, never ``FLUSHALL``."""
    return _backend.up("redis").redis_url


@pytest.fixture(scope="session")
def registry_url(_backend: Backend) -> str:
    """Base URL of a running schema registry (Confluent-compatible API), shared by the whole run."""
    return _backend.up("registry").registry_url


@pytest.fixture(scope="session")
def endpoints(_backend: Backend) -> Endpoints:
    """``bootstrap``, ``redis_url`` and ``registry_url`` of running servers; starts all three."""
    return _backend.up("kafka", "redis", "registry")


@pytest.fixture
def env(endpoints: Endpoints) -> Environment:
    """Settings that point at ``endpoints``."""
    return Environment(endpoints.settings())


@pytest.fixture
def stack(_embedded_stack: Stack) -> Iterator[Stack]:
    """The run's embedded stack, all parts up, for tests that kill, stop or freeze a part. Restored afterwards.

    With the default backend it is also what ``endpoints`` names; to be sure, take ``stack.endpoints()``.
    """
    _embedded_stack.up()
    yield _embedded_stack
    _embedded_stack.up()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: ``unique("orders")`` gives ``orders-3f2a9c0d1e4b``."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic_name(unique: Callable[[str], str]) -> str:
    """A topic name that no other test uses. The topic itself is not created."""
    return unique("test.topic")
