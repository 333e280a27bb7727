"""What Java services write is read, or refused by name. The bytes come from Apicurio's serializer: java/records.py."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import NotDecodable
from headwater_schemas.registry import LocalRegistry
from producers.java.records import SCHEMA

TOPIC = "orders.placed"
WRITTEN: dict[str, Any] = json.loads((Path(__file__).parent / "java" / "records.json").read_text("utf-8"))

ORDER: dict[str, Any] = {
    "order_id": "заказ-7",
    "amount": 9_000_000_000,
    "weight": 1.5,
    "express": True,
    "note": None,
    "state": "PAID",
    "lines": [{"sku": "s-1", "count": 3}],
    "labels": {"tenant": "blue"},
    "raw": b"\0\xff",
    "placed_at": datetime.datetime(2013, 1, 1, 10, 17, 0, 123_000, datetime.UTC),
    "total": decimal.Decimal("-12.34"),
}


class State(StrEnum):
    NEW = "NEW"
    PAID = "PAID"


class Order(msgspec.Struct):
    order_id: str
    state: State
    placed_at: datetime.datetime
    total: decimal.Decimal


def value(wire_format: str) -> bytes:
    return bytes.fromhex(WRITTEN["formats"][wire_format]["value"])


def codec(reader: dict[str, Any] = SCHEMA) -> Codec:
    """A codec of a service with ``reader`` as its contract, and the registry as Java left it."""
    registry = LocalRegistry()
    assert registry.register(f"{TOPIC}-value", WRITTEN["schema"]) == WRITTEN["schema_id"]
    return Codec(Catalogue.of(topics=[TopicSpec(TOPIC, "Order")], schemas=[reader]), registry)


def test_java_wrote_with_the_schema_that_it_was_given() -> None:
    assert fastavro.schema.to_parsing_canonical_form(WRITTEN["schema"]) == fastavro.schema.to_parsing_canonical_form(
        SCHEMA
    )


def test_a_java_record_is_read() -> None:
    assert codec().decoder(TOPIC)(value("4-byte ids")) == ORDER
    assert codec().decoder()(value("4-byte ids")) == ORDER


def test_a_java_record_becomes_a_struct() -> None:
    assert codec().decoder(TOPIC, Order)(value("4-byte ids")) == Order(
        "заказ-7", State.PAID, ORDER["placed_at"], ORDER["total"]
    )


def test_a_java_record_is_resolved_to_the_readers_own_version() -> None:
    reader = SCHEMA | {
        "fields": [
            {"name": "id", "aliases": ["order_id"], "type": "string"},
            {"name": "amount", "type": "double"},
            {"name": "channel", "type": "string", "default": "web"},
        ]
    }
    assert codec(reader).decoder(TOPIC)(value("4-byte ids")) == {
        "id": "заказ-7",
        "amount": 9_000_000_000.0,
        "channel": "web",
    }


def test_we_write_the_same_bytes_as_java() -> None:
    ours = codec(WRITTEN["schema"]).encoder(TOPIC)(ORDER)
    assert ours == value("4-byte ids")


def test_eight_byte_ids_are_refused_by_name() -> None:
    with pytest.raises(NotDecodable, match=r"8-byte ids must .* apicurio\.registry\.as-confluent=true"):
        codec().decoder(TOPIC)(value("8-byte ids"))


def test_an_id_in_a_header_is_refused_by_name() -> None:
    headers = WRITTEN["formats"]["ids in headers"]
    assert set(headers) == {"value", "apicurio.value.globalId", "apicurio.value.encoding"}
    with pytest.raises(NotDecodable, match="puts the id into a header must be told to put it into the value"):
        codec().decoder(TOPIC)(value("ids in headers"))


def test_what_we_write_is_read_by_an_avro_reader_that_knows_only_the_schema() -> None:
    ours = codec().encoder(TOPIC)(ORDER)
    assert ours[:1] == b"\0"
    assert fastavro.schemaless_reader(io.BytesIO(ours[5:]), SCHEMA, None) == ORDER
