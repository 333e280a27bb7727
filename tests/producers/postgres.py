"""A real PostgreSQL of the test run: Debian's package, a temporary folder, a free port, never as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["Postgres", "binaries", "postgres", "server"]


def binaries() -> Path | None:
    """Where the server's programs are; ``None`` when it is not installed (Debian: ``apt-get install postgresql``)."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: path.parent.name)


class Postgres:
    """A server that can be killed and started again on the same data.

    Attributes:
        url: the SQLAlchemy URL of its database.
    """

    def __init__(self, programs: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._user = _user()
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://headwater@127.0.0.1:{self._port}/postgres"
        data = folder / "data"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": folder,
            "fsync": "off",
            **settings,
        }
        self._command: list[str | Path] = [programs / "postgres", "-D", data]
        self._command += [f"--{name}={value}" for name, value in options.items()]
        shutil.chown(folder, self._user)
        how = ["-U", "headwater", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        initdb: list[str | Path] = [programs / "initdb", "-D", data, *how]
        subprocess.run(initdb, check=True, user=self._user, cwd=folder, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it and wait until it answers; after ``kill`` it recovers from its log first."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        _await(self._process, self._port, self._folder / "log")

    def kill(self) -> None:
        """SIGKILL to it and to every process of it: gone in the middle of whatever it did."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(30)
        psutil.wait_procs(processes, timeout=30)

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast": does not wait for clients
            self._process.wait(30)


@contextmanager
def server(programs: Path, **settings: str) -> Iterator[Postgres]:
    """A running server with further ``settings``."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-postgres-"))
    try:
        made = Postgres(programs, folder, settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres(programs: Path, **settings: str) -> Iterator[str]:
    """A running server with further ``settings``; gives the SQLAlchemy URL of its database."""
    with server(programs, **settings) as made:
        yield made.url


def _user() -> str:
    """PostgreSQL refuses to run as root."""
    current = pwd.getpwuid(os.getuid()).pw_name
    return "nobody" if current == "root" else current


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=headwater dbname=postgres connect_timeout=2").close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
