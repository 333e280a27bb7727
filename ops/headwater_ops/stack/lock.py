"""The locked artifacts: Maven coordinates with SHA-256 and size, in ``artifacts.lock.toml``.

``python -m headwater_ops.stack.lock KAFKA_VERSION REGISTRY_VERSION`` writes the file anew: it resolves Kafka's
dependencies, downloads each artifact and takes its hash. It is the only place that resolves; a running ``headwater up``
fetches exactly what the file names.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jgo.maven import Artifact as MavenArtifact

__all__ = ["Lock", "LockedArtifact", "load_lock"]

LOCK_FILE = Path(__file__).with_name("artifacts.lock.toml")


@dataclass(frozen=True, slots=True)
class LockedArtifact:
    """One file of a Maven repository. ``coordinate`` is ``group:artifact:version[:classifier:extension]``."""

    coordinate: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Lock:
    """What ``headwater up`` downloads: the jars of Kafka's class path, and the registry's archive."""

    kafka_version: str
    kafka: tuple[LockedArtifact, ...]
    registry_version: str
    registry: LockedArtifact


@cache
def load_lock() -> Lock:
    """The lock file of this package."""
    content = tomllib.loads(LOCK_FILE.read_text())
    return Lock(
        kafka_version=content["kafka"]["version"],
        kafka=tuple(LockedArtifact(**entry) for entry in content["kafka"]["artifacts"]),
        registry_version=content["registry"]["version"],
        registry=LockedArtifact(**content["registry"]["artifact"]),
    )


def _main(kafka_version: str, registry_version: str) -> None:
    import jgo
    from jgo.maven import MavenContext

    with TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=60)
        jars = jgo.resolve(f"org.apache.kafka:kafka_2.13:{kafka_version}")
        # Kafka logs through slf4j and ships its log4j binding outside its POM. Resolving both together would let the
        # binding's POM pin Kafka's own dependencies, so it is added alone, at the version of Kafka's log4j-core.
        log4j = next(jar.version for jar in jars if jar.artifactId == "log4j-core")
        jars.append(context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j).artifact())
        jars = [
            context.project(jar.groupId, jar.artifactId).at_version(jar.version).artifact(jar.classifier, jar.packaging)
            for jar in jars
        ]
        archive = context.project("io.apicurio", "apicurio-registry-app").at_version(registry_version)
        with ThreadPoolExecutor(8) as pool:
            *kafka, registry = pool.map(_locked, [*jars, archive.artifact("all", "tar.gz")])
    LOCK_FILE.write_text(_render(kafka_version, sorted(kafka, key=lambda a: a.coordinate), registry_version, registry))
    print(f"{LOCK_FILE.name}: {len(kafka) + 1} artifacts")


def _locked(artifact: MavenArtifact) -> LockedArtifact:
    path = artifact.resolve()
    suffix = f":{artifact.classifier}:{artifact.packaging}" if artifact.classifier else ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}{suffix}"
    return LockedArtifact(coordinate, digest, path.stat().st_size)


def _render(
    kafka_version: str, kafka: Iterable[LockedArtifact], registry_version: str, registry: LockedArtifact
) -> str:
    def line(artifact: LockedArtifact) -> str:
        return f'{{ coordinate = "{artifact.coordinate}", sha256 = "{artifact.sha256}", bytes = {artifact.bytes} }}'

    return "\n".join(
        [
            "# Written by: python -m headwater_ops.stack.lock KAFKA_VERSION REGISTRY_VERSION",
            "[kafka]",
            f'version = "{kafka_version}"',
            "artifacts = [",
            *(f"  {line(artifact)}," for artifact in kafka),
            "]",
            "",
            "[registry]",
            f'version = "{registry_version}"',
            f"artifact = {line(registry)}",
            "",
        ]
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m headwater_ops.stack.lock KAFKA_VERSION REGISTRY_VERSION")
    _main(sys.argv[1], sys.argv[2])
