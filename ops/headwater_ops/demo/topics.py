"""The names that the demo's parts share."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ARRIVED",
    "CANCELLED",
    "DELAYED",
    "DEPARTED",
    "FLIGHT_TOPICS",
    "GROUP",
    "LEGS",
    "REPORT",
    "SCHEDULED",
    "SENT_TOPICS",
    "WEATHER",
]

SCHEDULED: Final = "flights.scheduled"
DEPARTED: Final = "flights.departed"
ARRIVED: Final = "flights.arrived"
CANCELLED: Final = "flights.cancelled"
WEATHER: Final = "weather.observed"

FLIGHT_TOPICS: Final = (SCHEDULED, DEPARTED, ARRIVED, CANCELLED)
"""Keyed by flight."""

SENT_TOPICS: Final = (*FLIGHT_TOPICS, WEATHER)
"""What the replay sends."""

LEGS: Final = "flights.legs"
"""Flights re-keyed by airport."""

DELAYED: Final = "flights.delayed"
"""Arrivals more than three hours late, keyed by flight."""

GROUP: Final = "flights"
"""The worker's app, and so its consumer group."""

REPORT: Final = "delay.report"
"""The task for each late flight."""
