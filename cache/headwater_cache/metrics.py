"""Every metric of the cache, in one list. No key is ever a label; ``entity`` is the cache's name."""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from headwater_schemas.metrics import BUCKETS

__all__ = [
    "APPLY",
    "BLOOM_BYPASS",
    "BLOOM_FALSE_POSITIVE",
    "BREAKER_STATE",
    "BULKHEAD_REJECTED",
    "CONSISTENCY_CHECKED",
    "CONSISTENCY_NINES",
    "CONSISTENCY_REPAIRS",
    "CONSISTENCY_VIOLATIONS",
    "EARLY_REFRESH",
    "EVENT_LAG",
    "L1_ENTRIES",
    "L1_EVICTIONS",
    "L1_FLUSHES",
    "LEASE",
    "LOADS_IN_FLIGHT",
    "LOAD_SECONDS",
    "REQUESTS",
    "VERSION_CONFLICT",
    "WATERMARK_OFFSET",
    "MetricName",
]

MetricName = Literal[
    "headwater_cache_requests_total",  # reads, each once, by where they were answered and how
    "headwater_cache_apply_total",  # outcomes of the versioned apply, by who wrote
    "headwater_cache_event_lag_seconds",  # change occurred -> applied, of the oldest change of each batch
    "headwater_cache_watermark_offset",  # next offset to be applied
    "headwater_cache_lease_total",  # leases granted and lost, readers that waited for one
    "headwater_cache_load_seconds",  # one load from the source
    "headwater_cache_loads_in_flight",
    "headwater_cache_bulkhead_rejected_total",
    "headwater_cache_early_refresh_total",  # background refreshes before the hard expiry
    "headwater_cache_bloom_bypass_total",  # the key filter was not ready or lagged
    "headwater_cache_bloom_false_positive_total",  # it let a missing key pass
    "headwater_cache_breaker_state",  # 0 closed, 1 half open, 2 open
    "headwater_cache_consistency_checked_total",
    "headwater_cache_consistency_violations_total",  # by seconds since the change
    "headwater_cache_consistency_nines",  # of the changes that showed within so many seconds
    "headwater_cache_consistency_repairs_total",  # by what the apply made of them
    "headwater_cache_l1_entries",
    "headwater_cache_l1_evictions_total",  # by invalidation, own write, or for room
    "headwater_cache_l1_flushes_total",  # channel lost or found again
    "headwater_cache_version_conflict_total",  # entries and writes of another version domain
]


def _counter(name: MetricName, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels)


def _gauge(name: MetricName, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels)


def _histogram(name: MetricName, text: str, *labels: str) -> Histogram:
    return Histogram(name, text, labels, buckets=BUCKETS)


REQUESTS = _counter("headwater_cache_requests_total", "Reads, by tier and result.", "entity", "tier", "result")
APPLY = _counter("headwater_cache_apply_total", "Outcomes of the versioned apply.", "entity", "source", "result")
EVENT_LAG = _histogram(
    "headwater_cache_event_lag_seconds", "From the change to its apply, of the oldest change of a batch.", "entity"
)
WATERMARK_OFFSET = _gauge(
    "headwater_cache_watermark_offset", "Next offset to be applied.", "entity", "topic", "partition"
)
LEASE = _counter("headwater_cache_lease_total", "Leases granted and lost, readers that waited.", "entity", "result")
LOAD_SECONDS = _histogram("headwater_cache_load_seconds", "Duration of one load from the source.", "entity")
LOADS_IN_FLIGHT = _gauge("headwater_cache_loads_in_flight", "Loads in flight at the source.", "entity")
BULKHEAD_REJECTED = _counter("headwater_cache_bulkhead_rejected_total", "Loads refused by the bulkhead.", "entity")
EARLY_REFRESH = _counter("headwater_cache_early_refresh_total", "Refreshes begun before the hard expiry.", "entity")
BLOOM_BYPASS = _counter("headwater_cache_bloom_bypass_total", "Misses that the key filter could not judge.", "entity")
BLOOM_FALSE_POSITIVE = _counter(
    "headwater_cache_bloom_false_positive_total", "Missing keys that the key filter let pass.", "entity"
)
BREAKER_STATE = _gauge(
    "headwater_cache_breaker_state",
    "Breaker before Redis: 0 closed, 1 half open, 2 open.",
    "entity",
)
CONSISTENCY_CHECKED = _counter("headwater_cache_consistency_checked_total", "Looks of the auditor.", "entity")
CONSISTENCY_VIOLATIONS = _counter(
    "headwater_cache_consistency_violations_total", "Keys still wrong so long after a change.", "entity", "age"
)
CONSISTENCY_NINES = _gauge(
    "headwater_cache_consistency_nines", "Nines of the changes that showed within so many seconds.", "entity", "within"
)
CONSISTENCY_REPAIRS = _counter("headwater_cache_consistency_repairs_total", "Repairs tried.", "entity", "result")
L1_ENTRIES = _gauge("headwater_cache_l1_entries", "Values kept in this process.", "entity")
L1_EVICTIONS = _counter("headwater_cache_l1_evictions_total", "Values dropped by a write or for room.", "entity")
L1_FLUSHES = _counter("headwater_cache_l1_flushes_total", "Times that everything was dropped.", "entity")
VERSION_CONFLICT = _counter("headwater_cache_version_conflict_total", "Meetings with another version domain.", "entity")
