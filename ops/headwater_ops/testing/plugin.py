"""Fixtures for pytest, ``headwater_servers`` and ``headwater_faults``; come with ``headwater-ops``, free until used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every pytest run imports this file
    from headwater_ops.testing.app import Faults
    from headwater_ops.testing.servers import Servers

__all__ = ["headwater_faults", "headwater_servers", "pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "headwater_services", "what headwater_servers starts, of kafka, redis, registry (default: all)", "args", []
    )
    parser.addini("headwater_brokers", "Kafka nodes of headwater_servers, 1 or 3", default="1")


@pytest.fixture(scope="session")
def headwater_servers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The embedded stack on free ports, behind proxies; once per run, gone at its end."""
    from headwater_ops.testing.servers import servers

    services = pytestconfig.getini("headwater_services")
    brokers = int(pytestconfig.getini("headwater_brokers"))
    with servers(tmp_path_factory.mktemp("headwater"), *services, brokers=brokers) as running:
        yield running


@pytest.fixture
def headwater_faults(headwater_servers: Servers, pytestconfig: pytest.Config, tmp_path: Path) -> Faults:
    """Runs an app as processes, strikes, and gives the verdict: see ``headwater_ops.testing.app.Faults``."""
    from headwater_ops.testing.app import Faults

    return Faults(headwater_servers, tmp_path, pytestconfig.rootpath)
