"""Fixtures of every test: the real servers, started when the first test asks for them, and names nobody else uses.

``HEADWATER_TEST_BACKEND`` says where the servers are: ``embedded`` (default) or ``external``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from backends.embedded import embedded
from backends.external import external
from headwater_ops.stack import Endpoints, Stack
from headwater_schemas.settings import Environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses the servers is an integration test; nobody has to remember the marker."""
    for item in items:
        if {"endpoints", "stack"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def _embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with embedded(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def endpoints(request: pytest.FixtureRequest) -> Endpoints:
    """Addresses of running servers: ``bootstrap``, ``redis_url``, ``registry_url``. Shared by the whole run."""
    if Environment().get("HEADWATER_TEST_BACKEND") == "external":
        return external()
    stack: Stack = request.getfixturevalue("_embedded")
    found = stack.endpoints()
    assert found is not None, f"a part of the stack in {stack.state_dir} has ended"
    return found


@pytest.fixture
def stack(request: pytest.FixtureRequest, endpoints: Endpoints) -> Stack:
    """Control over the servers of ``endpoints`` (kill, stop, start a part). Leave them running as you found them."""
    if Environment().get("HEADWATER_TEST_BACKEND") == "external":
        pytest.skip("the servers are not ours to stop")
    stack: Stack = request.getfixturevalue("_embedded")
    return stack


@pytest.fixture
def env(endpoints: Endpoints) -> Environment:
    """Settings that point at the servers."""
    return Environment(endpoints.settings())


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: ``unique("orders")`` gives ``orders-3f2a9c0d1e4b``."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic_name(unique: Callable[[str], str]) -> str:
    """A topic name that no other test uses. The topic itself is not created."""
    return unique("test.topic")
