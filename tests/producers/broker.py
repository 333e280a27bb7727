"""The run's broker, as something that can go away and come back."""

from __future__ import annotations

import signal

from headwater_ops.stack import Stack

_PART = "broker-1"


class Broker:
    """Control over the one broker of the stack."""

    def __init__(self, stack: Stack) -> None:
        self.bootstrap = stack.up("kafka").bootstrap
        self._stack = stack

    def freeze(self) -> None:
        """Connections stay open, nothing answers: a black hole."""
        self._stack.kill(_PART, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was, with what lay in its sockets."""
        self._stack.kill(_PART, signal.SIGCONT)

    def kill(self) -> None:
        """Gone in the middle of whatever it did."""
        self._stack.kill(_PART, signal.SIGKILL)

    def start(self) -> None:
        """On the same ports and data."""
        self._stack.start(_PART)
