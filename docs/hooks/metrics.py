"""The metrics page, from the modules that declare metrics."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import isclass, signature
from types import ModuleType
from typing import Any, get_args

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from table import table

MODULES = {
    "headwater-schemas": "headwater_schemas.metrics",
    "headwater-producers": "headwater_producers.metrics",
    "headwater-cache": "headwater_cache.metrics",
    "headwater-streams": "headwater_streams.metrics",
    "headwater-streams: the event loop": "headwater_streams.loop_metrics",
    "headwater-streams: `@idempotent`": "headwater_streams.idempotency.marks",
    "headwater-tasks": "headwater_tasks.metrics",
    "Lag collector": "headwater_ops.lag.collector",
}

HEAD = """# Metrics

Every process serves these at `/metrics` in the Prometheus format. Units are seconds, bytes and records; no event id and
no business key is ever a label.
"""


def metrics_page() -> str:
    """The page as Markdown: a section for each module that declares metrics.

    Raises:
        AssertionError: a metric is not in its module's ``MetricName``.
    """
    return "\n".join([HEAD, *(_section(title, import_module(name)) for title, name in MODULES.items())])


def _section(title: str, module: ModuleType) -> str:
    rows = {row[0]: row for row in _rows(module)}
    names = {f"`{name}`" for name in get_args(module.MetricName)}
    assert rows.keys() <= names, f"{module.__name__}: {rows.keys() - names} is not in MetricName"
    # A collector may hold back a metric until it has a value; its name is known all the same.
    rows |= {name: [name, "", "", ""] for name in names - rows.keys()}
    return f"## {title}\n\n" + table(["metric", "type", "labels", "meaning"], sorted(rows.values()))


def _rows(module: ModuleType) -> Iterator[list[str]]:
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            yield _row(family.name, family.type, value._labelnames, family.documentation)  # no public way to ask
        elif isclass(value) and Collector in value.__bases__:
            collector: Any = value
            # Made empty: it has names and no samples.
            for family in (collector("") if signature(collector).parameters else collector()).collect():
                yield _row(family.name, family.type, family._labelnames, family.documentation)


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> list[str]:
    full = name + ("_total" if kind == "counter" else "")
    return [f"`{full}`", kind, ", ".join(f"`{label}`" for label in labels), meaning]
