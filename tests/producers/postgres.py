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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["binaries", "postgres"]


def binaries() -> Path | None:
    """Where the server's programs are; ``None`` when it is not installed (Debian: ``apt-get install postgresql``)."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: path.parent.name)


@contextmanager
def postgres(programs: Path, **settings: str) -> Iterator[str]:
    """A running server with further ``settings``; gives the SQLAlchemy URL of its database."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="headwater-postgres-"))
    shutil.chown(folder, user)
    data = folder / "data"
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "headwater",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
    ]
    port = _free_port()
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
    options.update(settings)
    server: list[str | Path] = [programs / "postgres", "-D", data]
    server += [f"--{name}={value}" for name, value in options.items()]
    try:
        subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(server, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            _await(process, port, folder / "log")
            yield f"postgresql+psycopg://headwater@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # "fast": does not wait for clients
            process.wait(30)
    finally:
        shutil.rmtree(folder)


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
