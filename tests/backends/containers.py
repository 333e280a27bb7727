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

# Removes the containers when its standard input ends: after the tests, and also when their process is killed.
_JANITOR = ("sh", "-c", 'cat > /dev/null; exec docker compose --project-name "$1" down --volumes', "sh")


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
    """One compose project of this test run, on free ports; removed with its data at the end, even of a killed run."""

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
        self._project = f"headwater-test-{uuid.uuid4().hex[:8]}"
        self._env = tempfile.NamedTemporaryFile("w", suffix=".env")
        self._env.write(
            f"COMPOSE_PROJECT_NAME={self._project}\nKAFKA_PORT={kafka}\nREDIS_PORT={redis}\nREGISTRY_PORT={registry}\n"
        )
        self._env.flush()
        self._janitor = subprocess.Popen(
            [*_JANITOR, self._project],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # a pipe of ours would end it with us
            start_new_session=True,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._env.close()
        self._janitor.communicate()
        if self._janitor.returncode != 0:
            raise RuntimeError(f"not removed: docker compose --project-name {self._project} down --volumes")

    def up(self, *services: Service) -> Endpoints:
        self._compose(*services).start()
        return self._endpoints

    def _compose(self, *services: Service) -> DockerCompose:
        return DockerCompose(
            _REPOSITORY, compose_file_name=_FILE, env_file=self._env.name, services=list(services) or None
        )
