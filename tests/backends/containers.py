"""The servers of ``compose.yaml``, started by Docker through testcontainers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Self

import yaml
from testcontainers.compose import DockerCompose

from headwater_ops.stack import Endpoints, Service
from headwater_ops.stack.ports import HOST, choose

__all__ = ["Containers", "images_at_hand"]

_REPOSITORY = Path(__file__).parents[2]
_FILE = "compose.yaml"


def images_at_hand() -> bool:
    """Whether Docker answers and has every image of ``compose.yaml`` already, so that nothing need be pulled."""
    if shutil.which("docker") is None:
        return False
    services = yaml.safe_load((_REPOSITORY / _FILE).read_text())["services"].values()
    return all(_succeeds("docker", "image", "inspect", service["image"]) for service in services) and _succeeds(
        "docker", "compose", "version"
    )


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Containers:
    """One compose project of this test run, on free ports; removed with its data at the end."""

    def __enter__(self) -> Self:
        ports: list[int] = []
        for service in ("kafka", "redis", "registry"):
            ports.append(choose("free", 0, ports, service))
        kafka, redis, registry = ports
        self._endpoints = Endpoints(
            bootstrap=f"{HOST}:{kafka}",
            redis_url=f"redis://{HOST}:{redis}/0",
            registry_url=f"http://{HOST}:{registry}/apis/ccompat/v7",
        )
        self._env = tempfile.NamedTemporaryFile("w", suffix=".env")
        self._env.write(
            f"COMPOSE_PROJECT_NAME=headwater-test-{uuid.uuid4().hex[:8]}\n"
            f"KAFKA_PORT={kafka}\nREDIS_PORT={redis}\nREGISTRY_PORT={registry}\n"
        )
        self._env.flush()
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._compose().stop()
        finally:
            self._env.close()

    def up(self, *services: Service) -> Endpoints:
        self._compose(*services).start()
        return self._endpoints

    def _compose(self, *services: Service) -> DockerCompose:
        return DockerCompose(
            _REPOSITORY, compose_file_name=_FILE, env_file=self._env.name, services=list(services) or None
        )
