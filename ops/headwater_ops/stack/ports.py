"""Which ports the parts listen on: the usual ones, or free ones."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Literal

from headwater_ops.stack.errors import PortTaken

__all__ = ["HOST", "PortChoice", "choose", "is_free", "is_listening"]

HOST = "127.0.0.1"

PortChoice = Literal["auto", "usual", "free"]
"""``usual``: the well-known port or an error; ``auto``: that port if it is free, else another; ``free``: another."""

# Below the ephemeral ranges of Linux (32768) and macOS (49152), so that no client's outgoing connection sits on one.
_RANGE = range(20_000, 32_000)


def is_listening(port: int) -> bool:
    """Whether a program of this machine accepts connections on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now. Promises nothing about a moment later."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that a port of closed connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    # macOS lets one bind to 127.0.0.1 beside a program that listens on every address.
    return not is_listening(port)


def choose(choice: PortChoice, usual: int, taken: Collection[int], what: str) -> int:
    """A port for ``what`` that is free now and not in ``taken``.

    Raises:
        PortTaken: ``choice`` is ``usual`` and the port is in use, or no port is free.
    """
    if choice != "free" and usual not in taken and is_free(usual):
        return usual
    if choice == "usual":
        raise PortTaken(
            f"port {usual}, the usual one of {what}, is in use: stop the program that listens on it, "
            "or let headwater take another: headwater up --ports auto"
        )
    for port in random.SystemRandom().sample(_RANGE, 200):
        if port not in taken and is_free(port):
            return port
    raise PortTaken(f"no free port for {what} among 200 tried from {_RANGE.start} to {_RANGE.stop - 1}")
