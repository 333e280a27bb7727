"""Contracts and values that several tests use."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry

TOPIC = "orders.placed"

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "OrderPlaced",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "quantity", "type": "int"},
        {"name": "express", "type": "boolean"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "customer", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "deliver_on", "type": ["null", {"type": "int", "logicalType": "date"}], "default": None},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}, "default": "NEW"},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [
                        {"name": "sku", "type": "string"},
                        {"name": "count", "type": "int", "default": 1},
                        {"name": "class", "type": ["null", "string"], "default": None},
                    ],
                },
            },
            "default": [],
        },
        {"name": "labels", "type": {"type": "map", "values": "string"}, "default": {}},
    ],
}


def order(**changes: Any) -> dict[str, Any]:
    """A full, valid order."""
    value: dict[str, Any] = {
        "order_id": "o-1",
        "placed_at": datetime.datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=datetime.UTC),
        "quantity": 3,
        "express": True,
        "total": decimal.Decimal("19.90"),
        "customer": uuid.UUID("5b3a8a58-2c1d-4d6c-9d3e-6f1f0c1c9a11"),
        "deliver_on": datetime.date(2026, 5, 6),
        "state": "PAID",
        "lines": [{"sku": "tea", "count": 2, "class": "dry"}],
        "labels": {"channel": "web"},
    }
    return value | changes


def catalogue(schema: dict[str, Any] = ORDER, topic: str = TOPIC) -> Catalogue:
    """One topic with this schema."""
    return Catalogue.of(topics=[TopicSpec(topic, schema["name"])], schemas=[schema])


def codec(schema: dict[str, Any] = ORDER, registry: LocalRegistry | None = None) -> Codec:
    """A codec of one topic, ``orders.placed``, with this schema."""
    return Codec(catalogue(schema), registry or LocalRegistry())
