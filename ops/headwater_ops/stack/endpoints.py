"""Where the servers are: of the running embedded stack, or as the settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from headwater_ops.stack.layout import Layout
from headwater_ops.stack.ports import HOST
from headwater_ops.stack.process import ServerProcess
from headwater_schemas.settings import Environment

__all__ = ["Endpoints", "cache_dir", "environment", "running", "state_dir"]

_SERVERS = ("HEADWATER_KAFKA_BOOTSTRAP", "HEADWATER_REDIS_URL", "HEADWATER_REGISTRY_URL")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses in the form the settings take them."""

    bootstrap: str
    redis_url: str
    registry_url: str

    @classmethod
    def of(cls, layout: Layout) -> Endpoints:
        return cls(
            bootstrap=",".join(f"{HOST}:{layout.ports[f'broker-{node}']['client']}" for node in layout.brokers),
            redis_url=f"redis://{HOST}:{layout.ports['redis']['client']}/0",
            registry_url=f"http://{HOST}:{layout.ports['registry']['http']}/apis/ccompat/v7",
        )

    def settings(self) -> dict[str, str]:
        """The ``HEADWATER_*`` variables that point at these servers."""
        return dict(zip(_SERVERS, (self.bootstrap, self.redis_url, self.registry_url), strict=True))


def state_dir(env: Environment | None = None) -> Path:
    """``HEADWATER_STATE_DIR``, else the user's state folder."""
    named = (env or Environment()).get("HEADWATER_STATE_DIR")
    return Path(named).expanduser().absolute() if named else platformdirs.user_state_path("headwater")


def cache_dir(env: Environment | None = None) -> Path:
    """``HEADWATER_CACHE_DIR``, else the user's cache folder."""
    named = (env or Environment()).get("HEADWATER_CACHE_DIR")
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("headwater")


def running(folder: Path) -> Endpoints | None:
    """Endpoints of the stack in a state folder if all its parts run; asks the kernel, not the servers."""
    root = folder / "stack"
    layout = Layout.load(root)
    if layout is None or any(ServerProcess(name, root / name).find() is None for name in layout.ports):
        return None
    return Endpoints.of(layout)


def environment(values: Mapping[str, str] | None = None) -> Environment:
    """The settings that commands use: as set; where no server is named, a running embedded stack; else the defaults.

    One named server (Kafka, Redis or registry) is enough to leave the embedded stack out, so that a production Kafka
    never meets a laptop's Redis.

    Raises:
        SettingError: an unknown ``HEADWATER_*`` name is set.
    """
    source = dict(os.environ if values is None else values)
    env = Environment(source)
    if any(source.get(name) for name in _SERVERS):
        return env
    endpoints = running(state_dir(env))
    return env if endpoints is None else Environment(source | endpoints.settings())
