"""Putting a whole catalogue into a registry, so that services need no right to register."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_schemas.catalogue import Catalogue, Compatibility
from headwater_schemas.registry import SchemaRegistry
from headwater_schemas.wire import subject_of

__all__ = ["Registration", "register_all"]


@dataclass(frozen=True, slots=True)
class Registration:
    """A topic's schema as it stands in the registry now."""

    topic: str
    subject: str
    schema_id: int
    level: Compatibility


def register_all(catalogue: Catalogue, registry: SchemaRegistry) -> list[Registration]:
    """Set every topic's compatibility level and register its schema. Blocks; may be run again at any time.

    The level comes first, so that the registry itself judges by it.

    Raises:
        IncompatibleSchema: the registry refuses a schema at its level; topics before it, by name, are registered.
        NotPermitted: we may not register.
        RegistryUnavailable: the registry does not answer.
    """
    done = []
    for spec in catalogue.topics():
        subject = subject_of(spec.name)
        if registry.compatibility(subject) != spec.compatibility:
            registry.set_compatibility(subject, spec.compatibility)
        schema_id = registry.register(subject, catalogue.schema(spec.schema))
        done.append(Registration(spec.name, subject, schema_id, spec.compatibility))
    return done
