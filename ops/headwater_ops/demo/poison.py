"""Poison: records that no handler can ever read, planted among the events of the flights they pretend to be about."""

from __future__ import annotations

import random
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, NamedTuple

import fastavro

from headwater_ops.demo.events import DemoEvent
from headwater_ops.demo.topics import FLIGHT_TOPICS
from headwater_schemas.catalogue import Catalogue, Schema
from headwater_schemas.registry import SchemaRegistry
from headwater_schemas.wire import Reason, frame

__all__ = ["POISON_RECORDS", "Poison", "Poisoner"]

POISON_RECORDS: Final = 25

_NO_SUCH_ID: Final = 1_000_000_000


class Poison(NamedTuple):
    """One record, and why it must end in the dead letters."""

    topic: str
    key: bytes
    value: bytes
    reason: Reason


class Poisoner:
    """Makes poison of three kinds in turn: random bytes, a schema id nobody gave out, and a field of the wrong type.

    The third kind is sound Avro, written with a schema that the topic's readers cannot resolve; that schema is
    registered under a subject of its own, as a careless service would. Makes one registry request per topic, blocking.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """

    def __init__(self, catalogue: Catalogue, registry: SchemaRegistry) -> None:
        self._wrong: dict[str, tuple[int, Schema]] = {}
        for topic in FLIGHT_TOPICS:
            schema = _with_number_as_text(catalogue.schema(catalogue.topic(topic).schema))
            self._wrong[topic] = registry.register(f"careless.{topic}-value", schema), schema

    def make(self, number: int, event: DemoEvent) -> Poison:
        """The poison of this ``number``, on the topic and key of ``event``, which must be of a flight."""
        key = event.key.encode()
        noise = random.Random(number).randbytes(40)
        match number % 3:
            case 0:
                return Poison(event.topic, key, b"\xff" + noise, "decode")
            case 1:
                return Poison(event.topic, key, frame(_NO_SUCH_ID + number, noise), "decode")
            case _:
                schema_id, schema = self._wrong[event.topic]
                payload = _encoded(event.value | {"flight_number": "seventeen"}, schema)
                return Poison(event.topic, key, frame(schema_id, payload), "schema")


def _with_number_as_text(schema: Schema) -> Schema:
    fields = [field | {"type": "string"} if field["name"] == "flight_number" else field for field in schema["fields"]]
    return schema | {"fields": fields}


def _encoded(value: Mapping[str, Any], schema: Schema) -> bytes:
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), dict(value))
    return buffer.getvalue()
