"""The demo's entities: how each is read from the cache, and how its changes are written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headwater_cache import AvroValues, EntityCache, NearPolicy, RedisSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.settings import Environment
from headwater_schemas.wire import change_topic

__all__ = ["AIRLINE", "AIRPORT", "BOARD", "CONTRACTS", "FLIGHT", "PLANE", "Entities", "entity_values"]

Value = dict[str, Any]

FLIGHT = "flight"
BOARD = "airport-board"
PLANE = "plane"
AIRPORT = "airport"
AIRLINE = "airline"

CONTRACTS = {FLIGHT: "Flight", BOARD: "AirportBoard", PLANE: "Plane", AIRPORT: "Airport", AIRLINE: "Airline"}
"""Contract of the values of each entity."""

_REFERENCE = (PLANE, AIRPORT, AIRLINE)
_NEAR = NearPolicy(entries=10_000, ttl="1m")
"""Reference data hardly changes, and every flight asks for it: a process keeps what it has read."""


def entity_values(codec: Codec, contract: str) -> AvroValues:
    """Values of a contract that is no topic's own: its subject is ``<contract>-value``. Blocks for one request.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    schema = codec.catalogue.schema(contract)
    alone = Codec(Catalogue.of(topics=[TopicSpec(contract, contract)], schemas=[schema]), codec.registry)
    return AvroValues(alone.encoder(contract), alone.decoder(contract))


class Entities:
    """A view and a maker of change events for each entity. Blocks for a registry request per entity when made.

    Args:
        codec: how to reach contracts and registry.
        redis: where the views are.
        clock: stamps changes.
        source: who makes the changes.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """

    def __init__(self, codec: Codec, redis: RedisSettings, *, source: str, clock: Clock | None = None) -> None:
        self._values = {entity: entity_values(codec, contract) for entity, contract in CONTRACTS.items()}
        self._views: dict[str, EntityCache[Value]] = {
            entity: EntityCache(entity, redis, values=values, near=_NEAR if entity in _REFERENCE else None)
            for entity, values in self._values.items()
        }
        self._source = source
        self._clock = clock or SystemClock()

    @classmethod
    def from_env(cls, env: Environment, codec: Codec, *, source: str) -> Entities:
        """Of the settings' Redis."""
        return cls(codec, RedisSettings.from_env(env), source=source)

    def view(self, entity: str) -> EntityCache[Value]:
        """The view of an entity."""
        return self._views[entity]

    def change(self, entity: str, key: str, version: int, value: Mapping[str, Any]) -> Value:
        """The ChangeEvent that puts ``value``."""
        schema_id, payload = self._values[entity].encode(value)
        return {
            "entity": entity,
            "key": key,
            "version": version,
            "op": "UPSERT",
            "schema_id": schema_id,
            "value": payload,
            "source": self._source,
            "occurred_at": datetime.fromtimestamp(self._clock.time(), UTC),
        }

    def decode(self, entity: str, change: Mapping[str, Any]) -> Value:
        """The value of an UPSERT."""
        value: Value = self._values[entity].decode(change["schema_id"], change["value"])
        return value

    def close(self) -> None:
        """Let go of connections."""
        for view in self._views.values():
            view.close()

    @staticmethod
    def topics() -> list[str]:
        """The change topics."""
        return [change_topic(entity) for entity in CONTRACTS]
