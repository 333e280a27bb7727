"""The metrics page, from the ``metrics`` module of every package."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase
from table import table

PACKAGES = ("schemas", "producers", "cache", "streams", "tasks", "ops")

HEAD = """# Metrics

Every process serves these at `/metrics` in the Prometheus format. Units are seconds, bytes and records; no event id and
no business key is ever a label.
"""


def metrics_page() -> str:
    """The page as Markdown; a section for each package that has a ``metrics`` module."""
    modules = {package: f"headwater_{package}.metrics" for package in PACKAGES}
    sections = [_section(package, import_module(name)) for package, name in modules.items() if find_spec(name)]
    return "\n".join([HEAD, *sections])


def _section(package: str, module: ModuleType) -> str:
    described = {row[0]: row for row in map(_row, _metrics(module))}
    undescribed = [f"`{name}`" for name in get_args(module.MetricName) if f"`{name}`" not in described]
    rows = [*described.values(), *([name, "", "", ""] for name in undescribed)]
    return f"## headwater-{package}\n\n" + table(["metric", "type", "labels", "meaning"], rows)


def _metrics(module: ModuleType) -> list[MetricWrapperBase]:
    return [value for value in vars(module).values() if isinstance(value, MetricWrapperBase)]


def _row(metric: MetricWrapperBase) -> list[str]:
    (family,) = metric.describe()
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # no public way to ask
    return [f"`{name}`", family.type, labels, family.documentation]
