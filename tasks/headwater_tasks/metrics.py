"""The metrics of this package; those of a worker's hot path are kept in ``counters``."""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from headwater_schemas.metrics import BUCKETS

__all__ = ["BY_STATE", "HTTP_REQUESTS", "HTTP_SECONDS", "OLDEST_PENDING", "MetricName", "submitted"]

MetricName = Literal[
    "headwater_tasks_submitted_total",  # by type
    "headwater_tasks_finished_total",  # by type and outcome
    "headwater_tasks_by_state",  # by type and state, from the index
    "headwater_task_oldest_pending_seconds",  # by type, from the index
    "headwater_task_seconds",  # one attempt
    "headwater_task_queue_seconds",  # due -> started
    "headwater_http_requests_total",  # by route template, method and code
    "headwater_http_request_seconds",  # by route template and method
]

_SUBMITTED = Counter("headwater_tasks_submitted_total", "Tasks submitted.", ["type"])
BY_STATE = Gauge("headwater_tasks_by_state", "Tasks by state, from the index.", ["type", "state"])
OLDEST_PENDING = Gauge("headwater_task_oldest_pending_seconds", "Age of the oldest PENDING task that is due.", ["type"])
HTTP_REQUESTS = Counter("headwater_http_requests_total", "Requests.", ["route", "method", "code"])
HTTP_SECONDS = Histogram("headwater_http_request_seconds", "Until the response.", ["route", "method"], buckets=BUCKETS)


_TYPES = 500
_submitted: dict[str, Counter] = {}


def submitted(type_: str) -> None:
    """A task was submitted. Types are the callers' to invent, labels must not be: past the 500th they are "other"."""
    counter = _submitted.get(type_)
    if counter is None:
        room = len(_submitted) < _TYPES
        counter = _SUBMITTED.labels(type_ if room else "other")
        if room:
            _submitted[type_] = counter
    counter.inc()
