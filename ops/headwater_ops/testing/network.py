"""Ways to the brokers, each through proxies of its own, so that a fault strikes some clients and leaves the others."""

from __future__ import annotations

from typing import Self

from headwater_ops.stack import Stack
from headwater_ops.testing.proxy import Proxy

__all__ = ["WAYS", "Network"]

WAYS = ("left", "right")


class Network:
    """A proxy per way and broker. A Kafka client goes on to where brokers say that they are, so each way is a listener
    of its own, whose advertised address is the proxy's::

        with Network(brokers=1) as network, Stack(advertised=network.advertised) as stack:
            network.connect(stack)
            client = {"bootstrap.servers": network.bootstrap("left")}
    """

    def __init__(self, brokers: int = 1) -> None:
        nodes = range(1, brokers + 1)
        self._proxies = {way: {node: Proxy() for node in nodes} for way in WAYS}

    @property
    def advertised(self) -> dict[str, dict[int, int]]:
        """For ``Stack``."""
        return {way: {node: proxy.port for node, proxy in nodes.items()} for way, nodes in self._proxies.items()}

    def connect(self, stack: Stack) -> None:
        """Find the brokers of a running stack that was given ``advertised``."""
        ports = {part.name: part.ports for part in stack.status()}
        for way, nodes in self._proxies.items():
            for node, proxy in nodes.items():
                proxy.upstream = ports[f"broker-{node}"][way]

    def bootstrap(self, way: str) -> str:
        return ",".join(proxy.address for proxy in self._proxies[way].values())

    def slow(self, way: str, seconds: float) -> None:
        """Delay every answer; 0 is as before."""
        for proxy in self._proxies[way].values():
            proxy.delay = seconds

    def cut(self, way: str) -> None:
        """Let nothing pass until ``mend``: connections stay open and fall silent."""
        for proxy in self._proxies[way].values():
            proxy.hole = True

    def mend(self, way: str) -> None:
        for proxy in self._proxies[way].values():
            proxy.hole = False

    def reset(self, way: str) -> None:
        """Reset every connection; new ones are served."""
        for proxy in self._proxies[way].values():
            proxy.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for nodes in self._proxies.values():
            for proxy in nodes.values():
                proxy.close()
