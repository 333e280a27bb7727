"""Writes ``records.json``: what a Java service puts on the log, by Apicurio's serializer and a real registry.

    python tests/producers/java/records.py

The tests read the file, so they need no Java. To write it anew: a JDK (17 or newer) on PATH; the serializer comes from
Maven Central. (Confluent's own serializer is not there; its wire format is the one with 4-byte ids.)
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jgo

from headwater_ops.stack import Stack
from headwater_schemas.registry import Registry
from headwater_schemas.settings import RegistrySettings

HERE = Path(__file__).parent
SERIALIZER = "io.apicurio:apicurio-registry-serdes-avro-serde:2.6.13.Final"

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "amount", "type": "long"},
        {"name": "weight", "type": "double"},
        {"name": "express", "type": "boolean"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
                },
            },
        },
        {"name": "labels", "type": {"type": "map", "values": "string"}},
        {"name": "raw", "type": "bytes"},
        {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    ],
}


def serialized(registry_url: str, schema: Path) -> dict[str, dict[str, str]]:
    """Per wire format: the value and the headers, in hex."""
    jars = [str(jar.resolve()) for jar in jgo.resolve(SERIALIZER)]
    api = registry_url.replace("/apis/ccompat/v7", "/apis/registry/v2")
    command = ["java", "-cp", os.pathsep.join(jars), str(HERE / "JavaRecords.java"), api, str(schema)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    formats: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        name, part, content = line.split("\t")
        formats.setdefault(name, {})[part] = content
    return formats


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="headwater-java-") as folder:
        schema = Path(folder) / "Order.avsc"
        schema.write_text(json.dumps(SCHEMA), "utf-8")
        stack = Stack(Path(folder) / "stack", ports="free")
        try:
            url = stack.up("registry").registry_url
            formats = serialized(url, schema)
            schema_id = int(formats["4-byte ids"]["value"][2:10], 16)
            with Registry(RegistrySettings(url)) as registry:
                document = {
                    "serializer": SERIALIZER,
                    "schema_id": schema_id,
                    "schema": registry.schema(schema_id),
                    "formats": formats,
                }
        finally:
            stack.down(wipe=True)
    (HERE / "records.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
