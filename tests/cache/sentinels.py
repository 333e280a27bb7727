"""A primary, its replica and three sentinels that watch over them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from cache.redis_server import RedisServer

__all__ = ["Watched", "folder_of", "sentinel_of", "watched"]


class Watched:
    """Servers under watch. ``url`` is what a cache is given."""

    def __init__(self, folder: Path) -> None:
        at_once = ("--repl-diskless-sync-delay", "0")
        self.primary = RedisServer(folder_of(folder, "primary"), *at_once)
        of = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self._replica = RedisServer(folder_of(folder, "replica"), *of, *at_once)
        self._sentinels = [
            sentinel_of(folder_of(folder, f"sentinel{number}"), self.primary.port) for number in range(3)
        ]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self._sentinels)
        self.url = f"redis+sentinel://{hosts}/main/0"

    def await_quorum(self) -> None:
        """Until the sentinels know each other, and the replica."""
        deadline = time.monotonic() + 30
        for sentinel in self._sentinels:
            with redis.Redis(port=sentinel.port, decode_responses=True) as client:
                while True:
                    known: Any = client.sentinel_master("main")
                    if int(known["num-other-sentinels"]) == 2 and int(known["num-slaves"]) == 1:
                        break
                    assert time.monotonic() < deadline, "the sentinels did not find each other"
                    time.sleep(0.1)

    def kill(self) -> None:
        for server in (*self._sentinels, self._replica, self.primary):
            server.kill()


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Started, and killed in the end."""
    servers = Watched(folder)
    try:
        yield servers
    finally:
        servers.kill()


def folder_of(parent: Path, name: str) -> Path:
    """A new folder."""
    folder = parent / name
    folder.mkdir()
    return folder


def sentinel_of(folder: Path, port: int, quorum: int = 2) -> RedisServer:
    """One that watches over the primary at this port."""
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {port} {quorum}\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n"
    )
    return RedisServer(folder, "--sentinel", config=config)
