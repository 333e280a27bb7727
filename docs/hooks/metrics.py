"""The metrics page, from the ``metrics`` module of every package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass
from types import ModuleType
from typing import Any, get_args

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from table import table

PACKAGES = ("schemas", "producers", "cache", "streams", "tasks", "ops")

HEAD = """# Metrics

Every process serves these at `/metrics` in the Prometheus format. Units are seconds, bytes and records; no event id and
no business key is ever a label.
"""


def metrics_page() -> str:
    """The page as Markdown; a section for each package that has a ``metrics`` module.

    Raises:
        AssertionError: a metric is not in its package's ``MetricName``, or a name there belongs to no metric.
    """
    modules = {package: f"headwater_{package}.metrics" for package in PACKAGES}
    sections = [_section(package, import_module(name)) for package, name in modules.items() if find_spec(name)]
    return "\n".join([HEAD, *sections])


def _section(package: str, module: ModuleType) -> str:
    rows = sorted(_rows(module))
    assert {row[0].strip("`") for row in rows} == set(get_args(module.MetricName)), f"{module.__name__}: MetricName"
    return f"## headwater-{package}\n\n" + table(["metric", "type", "labels", "meaning"], rows)


def _rows(module: ModuleType) -> Iterator[list[str]]:
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            yield _row(family.name, family.type, value._labelnames, family.documentation)  # no public way to ask
        elif isclass(value) and Collector in value.__bases__:
            collector: Any = value
            for family in collector("").collect():  # made with an empty group: it has names and no samples
                yield _row(family.name, family.type, family._labelnames, family.documentation)


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> list[str]:
    full = name + ("_total" if kind == "counter" else "")
    return [f"`{full}`", kind, ", ".join(f"`{label}`" for label in labels), meaning]
