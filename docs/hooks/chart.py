"""The chart's values as Markdown: the page of the site, and, run as a script, the chart's README on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from table import table

Schema: TypeAlias = dict[str, Any]

CHART = Path(__file__).parents[2] / "helm" / "headwater"

INTRODUCTION = """
Runs Headwater beside an existing Kafka, schema registry and Redis: named groups of stream workers, the HTTP API, the
lag collector, and Jobs that check schemas and create topics before each install and upgrade. Kubernetes 1.30 or newer.

```console
$ helm install prod helm/headwater -f values.yaml
$ helm test prod
```

The least that installs is [`ci/minimal-values.yaml`](ci/minimal-values.yaml); everything at once is
[`ci/full-values.yaml`](ci/full-values.yaml). Secrets are never values: the chart takes the names of existing ones.
`make test-helm` checks the chart.
"""


def rows() -> Iterator[list[str]]:
    """Name, default and meaning of every value."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    return _rows(schema, schema["$defs"], "", defaults)


def values_page() -> str:
    """The page as Markdown."""
    head = (
        "# Chart values\n\nThe chart refuses what is not in this table. [Deploy](../deploy.md) says how to use it.\n\n"
    )
    return head + table(["value", "default", "meaning"], rows())


def readme() -> str:
    """The chart's README."""
    note = "<!-- Written by `make chart-readme` from values.yaml and values.schema.json. -->\n"
    values = "\n## Values\n\n" + table(["value", "default", "meaning"], rows())
    return note + "# Headwater chart\n" + INTRODUCTION + values


def _rows(schema: Schema, definitions: dict[str, Schema], path: str, default: object) -> Iterator[list[str]]:
    children = {name: _resolved(child, definitions) for name, child in schema.get("properties", {}).items()}
    if path == "workers":
        children["<group>"] = _resolved(schema["additionalProperties"], definitions)
    told = {name: child for name, child in children.items() if "description" in child or "properties" in child}
    if "description" in schema:
        yield [f"`{path}`", "" if told else _default(default), schema["description"]]
    for name, child in told.items():
        inner = default.get(name) if isinstance(default, dict) else None
        yield from _rows(child, definitions, f"{path}.{name}".lstrip("."), inner)


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" not in schema:
        return schema
    return {**_resolved(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions), **schema}


def _default(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(readme(), end="")
