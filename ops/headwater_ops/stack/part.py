"""A part of the embedded stack: a server, known to be ready by its own protocol."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from headwater_ops.stack.errors import PortTaken, StartFailed
from headwater_ops.stack.ports import is_free
from headwater_ops.stack.process import ServerProcess

__all__ = ["Part"]

_POLL = 0.05
_SHARE_FOR_RUNNING = 0.25  # of the time limit: how long a server that runs already may take to answer


class Part(ABC):
    """One server with a folder and ports of its own.

    Args:
        name: unique in the stack: ``broker-1``, ``redis``, ``registry``.
        folder: keeps configuration, data, log and pid file.
        ports: the port of each listener named in ``listeners``.
    """

    service: ClassVar[str]
    """What it is part of: ``kafka``, ``redis`` or ``registry``."""

    listeners: ClassVar[Mapping[str, int]]
    """Every listener of this kind of part, with its usual port."""

    grace: ClassVar[float] = 15.0
    """Seconds a clean stop may take before the process is killed."""

    def __init__(self, name: str, folder: Path, ports: Mapping[str, int]) -> None:
        self.name = name
        self.folder = folder
        self.ports = dict(ports)
        self.process = ServerProcess(name, folder)
        self._abandoned = threading.Event()

    @abstractmethod
    def prepare(self) -> None:
        """Download what the server needs and write its configuration. Called before every start; keeps data."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line; run in ``folder``."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask the server itself, once, within about a second. Raises nothing for a server that is not up yet."""

    def env(self) -> Mapping[str, str]:
        """Environment variables of the server, beside the process's own."""
        return {}

    def start(self, timeout: float) -> None:
        """Start the server unless it serves, and block until it does. Its data and ports stay as they were.

        A server that runs but does not answer within a quarter of the time limit is stopped and started anew.

        Raises:
            PortTaken: another program listens on one of its ports.
            StartFailed: it ended, or was not ready within ``timeout`` seconds; it is stopped, its log named.
            NoServer, DownloadFailed, HashMismatch, NoSpace: it cannot be prepared.
        """
        if self.process.find() is not None:
            try:
                self._await_ready(timeout * _SHARE_FOR_RUNNING)
                return
            except StartFailed:  # stuck, or left by an `up` that was killed half-way
                if self._abandoned.is_set():
                    raise
                self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_ports()
        self.prepare()
        try:
            self.process.spawn(self.command(), self.env())
            self._await_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def abandon(self) -> None:
        """Make a ``start`` that waits in another thread give up and stop what it started."""
        self._abandoned.set()

    def stop(self) -> None:
        """Stop the server and block until it is gone. Fine when it does not run."""
        self.process.stop(self.grace)

    def _await_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if self.process.find() is None:
                self._check_ports()
                raise StartFailed(f"{self.name} ended while it started; {self.process.log_tail()}")
            if time.monotonic() >= deadline:
                raise StartFailed(f"{self.name} was not ready within {timeout:.0f} s; {self.process.log_tail()}")
            if self._abandoned.wait(_POLL):
                raise StartFailed(f"{self.name} was stopped before it was ready")

    def _check_ports(self) -> None:
        for listener, port in self.ports.items():
            if not is_free(port):
                raise PortTaken(
                    f"port {port} ({self.name}, {listener}) is in use by another program: stop that program, "
                    "or run headwater up --ports auto"
                )
