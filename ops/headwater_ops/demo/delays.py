"""Flights that arrived more than three hours late: a task writes a report about each.

The handler that submits these tasks stumbles now and then, on purpose: one flight in twenty is refused at the first
attempt, as by a service that is busy. It comes back from a retry tier a second later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

import msgspec

from headwater_ops.demo.boards import Fact

__all__ = ["DelayReport", "ReportDeskBusy", "delayed_event", "is_late", "stumbles", "summary"]

_LATE_MINUTES: Final = 180
_FIELDS: Final = (
    "flight_id",
    "carrier",
    "flight_number",
    "origin",
    "destination",
    "scheduled_departure",
    "arrived_at",
    "delay_minutes",
)


class ReportDeskBusy(Exception):
    """The planted failure."""


class DelayReport(msgspec.Struct, frozen=True):
    """Payload of the task ``delay.report``."""

    flight_id: str
    destination: str
    delay_minutes: int


def is_late(fact: Fact) -> bool:
    """Whether a fact is an arrival more than three hours late."""
    return fact.kind == "ARRIVED" and fact.delay_minutes is not None and fact.delay_minutes > _LATE_MINUTES


def delayed_event(arrived: Mapping[str, Any]) -> dict[str, Any]:
    """The ``flights.delayed`` event of a ``flights.arrived`` event."""
    return {name: arrived[name] for name in _FIELDS}


def stumbles(flight_id: str) -> bool:
    """Whether this flight is refused at the first attempt; the same in every run."""
    return crc32(flight_id.encode()) % 20 == 0


def summary(report: DelayReport, flight: Mapping[str, Any] | None) -> str:
    """A sentence for people; ``flight`` is the flight's state, where the cache shows it by now."""
    names = flight or {}
    airline = names.get("airline") or "unknown airline"
    place = names.get("destination_name") or report.destination
    hours, minutes = divmod(report.delay_minutes, 60)
    return f"{report.flight_id} ({airline}) reached {place} {hours} h {minutes:02} min late"
