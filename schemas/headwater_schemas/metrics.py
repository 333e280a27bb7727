"""The metrics of this package: every name once, as a type, so that a misspelt one does not pass the checker."""

from __future__ import annotations

from typing import Final, Literal, get_args

from prometheus_client import Counter

__all__ = ["BUCKETS", "REGISTRY_REQUESTS", "MetricName", "RegistryOutcome"]

MetricName = Literal[
    # Requests that went out to the schema registry (cache hits are not requests). Label: outcome.
    "headwater_registry_requests_total",
]

RegistryOutcome = Literal[
    "ok",
    # The registry answered that it has no such schema, subject or id.
    "unknown",
    # The registry answered and refused: incompatible schema, invalid schema, no permission.
    "refused",
    # No usable answer in time: connection, time limit, 5xx, 408, 429, or something that is not a registry.
    "unavailable",
]

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds of the histograms of durations, in seconds; the same in all packages, so that quantiles can be compared."""

_REQUESTS: Final[MetricName] = "headwater_registry_requests_total"

REGISTRY_REQUESTS: Final = Counter(_REQUESTS, "Requests to the schema registry, by outcome.", ["outcome"])
for _outcome in get_args(RegistryOutcome):
    REGISTRY_REQUESTS.labels(_outcome)  # Prometheus sees no increase in a counter that begins with its first failure
