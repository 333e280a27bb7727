"""The gate: may this catalogue go out, given what is out already? Against git, offline, or against a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headwater_schemas.catalogue import Catalogue, Compatibility, Schema, TopicSpec
from headwater_schemas.compatibility import Break, breaks
from headwater_schemas.errors import UnknownTopic
from headwater_schemas.history import Release
from headwater_schemas.registry import SchemaRegistry
from headwater_schemas.wire import subject_of

__all__ = ["Verdict", "against_registry", "against_releases"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One topic's: the earlier versions looked at, and what breaks; no breaks means that the topic may go out."""

    topic: str
    level: Compatibility
    compared: tuple[str, ...]
    breaks: tuple[Break, ...]


def against_releases(catalogue: Catalogue, earlier: Sequence[Release]) -> list[Verdict]:
    """Every topic against its schemas in ``earlier`` (oldest first). A new topic has nothing to break.

    A topic that is gone is not judged: its records and readers are where they were.

    Raises:
        UsageError: a schema is not valid Avro.
    """

    def versions(spec: TopicSpec) -> list[tuple[str, Schema]]:
        found: list[tuple[str, Schema]] = []
        for release in earlier:
            schema = _schema_then(release.catalogue, spec.name)
            if schema is not None:
                found.append((release.label, schema))
        return found

    return _judged(catalogue, versions)


def against_registry(catalogue: Catalogue, registry: SchemaRegistry) -> list[Verdict]:
    """Every topic against the versions that the registry has under its subject. Blocks.

    Raises:
        UsageError: a schema is not valid Avro.
        RegistryUnavailable: the registry does not answer.
    """

    def versions(spec: TopicSpec) -> list[tuple[str, Schema]]:
        schemas = registry.versions(subject_of(spec.name))
        return [(f"registered version {number}", schema) for number, schema in enumerate(schemas, start=1)]

    return _judged(catalogue, versions)


def _judged(catalogue: Catalogue, versions: Callable[[TopicSpec], list[tuple[str, Schema]]]) -> list[Verdict]:
    verdicts = []
    for spec in catalogue.topics():
        earlier = versions(spec)
        found = breaks(catalogue.schema(spec.schema), earlier, spec.compatibility)
        verdicts.append(Verdict(spec.name, spec.compatibility, tuple(label for label, _ in earlier), tuple(found)))
    return verdicts


def _schema_then(catalogue: Catalogue, topic: str) -> Schema | None:
    try:
        return catalogue.schema(catalogue.topic(topic).schema)
    except UnknownTopic:
        return None
