"""The servers of a run with faults: brokers that may be killed, behind proxies that may be disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headwater_ops.stack import Endpoints, Service, Stack
from headwater_ops.testing.janitor import stopped_at_end
from headwater_ops.testing.network import Network

__all__ = ["Servers", "servers"]

_BROKER = {"group.consumer.session.timeout.ms": "5000"}  # so that a frozen worker is soon given up


@dataclass(frozen=True, slots=True)
class Servers:
    """``network`` is ``None`` where workers reach the brokers straight."""

    stack: Stack
    endpoints: Endpoints
    network: Network | None = None

    @property
    def brokers(self) -> int:
        return len(self.endpoints.bootstrap.split(","))


@contextmanager
def servers(folder: Path, *services: Service, brokers: int = 1) -> Iterator[Servers]:
    """An embedded stack of its own, on free ports, with a network; gone at the end, also when this process is killed.

    Args:
        services: as of ``Stack.up``; none means all.
    """
    with stopped_at_end(folder), Network(brokers) as network:
        stack = Stack(folder, ports="free", brokers=brokers, advertised=network.advertised, broker_properties=_BROKER)
        endpoints = stack.up(*services)
        network.connect(stack)
        yield Servers(stack, endpoints, network)
