"""Apicurio Registry, with the Confluent-compatible API that our clients speak."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.download import Downloads
from headwater_ops.stack.java import JVM_FLAGS, find_java
from headwater_ops.stack.lock import load_lock
from headwater_ops.stack.part import Part
from headwater_ops.stack.ports import HOST

__all__ = ["Registry"]


class Registry(Part):
    """Schemas are kept in a file database, so that the ids written into Kafka's records stay true over restarts."""

    service: ClassVar[str] = "registry"
    listeners: ClassVar[Mapping[str, int]] = {"http": 8081, "management": 8082}

    def __init__(self, folder: Path, ports: Mapping[str, int], *, downloads: Downloads, aot: AotCaches) -> None:
        super().__init__("registry", folder, ports)
        self._downloads = downloads
        self._aot = aot

    @classmethod
    def server(cls) -> str:
        """Name and version."""
        return f"registry-{load_lock().registry_version}"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['http']}/apis/ccompat/v7"

    def prepare(self) -> None:
        self._home()

    def _home(self) -> Path:
        return self._downloads.unpack(load_lock().registry)

    def command(self) -> list[str]:
        return [
            str(find_java()),
            *self._aot.flags(self.server()),
            "-Xmx256m",
            *JVM_FLAGS,
            "-jar",
            str(self._home() / "quarkus-run.jar"),
        ]

    def env(self) -> Mapping[str, str]:
        return {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(self.ports["http"]),
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(self.ports["management"]),
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.folder}/data/registry;WRITE_DELAY=0",
        }

    def is_ready(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/subjects", timeout=1.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
