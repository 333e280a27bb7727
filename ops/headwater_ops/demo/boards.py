"""The fold of an airport's board: running totals that count every fact once.

Facts about flights reach a board through ``flights.legs``, keyed by airport, in batches that name their source
partition and the offset of every fact. For one source partition they come in the order of its offsets (a batch is
acknowledged before the next one is read), so the last offset counted tells a repeated fact from a new one. Those
offsets are kept in the board itself: totals and bookkeeping change in one record, and a worker that starts anew, or
repeats a batch after a crash, counts nothing twice and leaves nothing out.

What this needs: the batches come from one reader that does not set records aside for later. A fact retried behind its
successors would be taken for a repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Fact", "fold_legs", "fold_weather", "legs_by_airport", "new_board", "rank_routes"]

Value = dict[str, Any]

_TIMED_ARRIVALS = 20  # below this a route's mean says little


class Fact(NamedTuple):
    """What happened to one flight, and where it was read."""

    offset: int
    kind: str
    """DEPARTED, ARRIVED or CANCELLED."""
    origin: str
    destination: str
    delay_minutes: int | None


def legs_by_airport(source: str, facts: Iterable[Fact]) -> dict[str, Value]:
    """The ``flights.legs`` record of each airport that a batch of facts concerns.

    Args:
        source: topic and partition that all facts were read from.
        facts: in the order of their offsets.
    """
    records: dict[str, Value] = {}
    for fact in facts:
        # A departure or cancellation is the origin's business; an arrival counts at both ends of its route.
        airports = (fact.origin, fact.destination) if fact.kind == "ARRIVED" else (fact.origin,)
        leg = fact._asdict()
        for airport in airports:
            record = records.get(airport)
            if record is None:
                record = records[airport] = {"airport": airport, "source": source, "legs": []}
            record["legs"].append(leg)
    return records


def new_board(airport: str) -> Value:
    """The board of an airport at which nothing happened yet."""
    return {
        "airport": airport,
        "departures": 0,
        "departure_delay_minutes": 0,
        "mean_departure_delay": None,
        "cancellations": 0,
        "arrivals": 0,
        "arrivals_timed": 0,
        "arrival_delay_minutes": 0,
        "mean_arrival_delay": None,
        "worst_route": None,
        "worst_route_delay": None,
        "weather": None,
        "routes": {},
        "applied": {},
    }


def fold_legs(board: Value, record: Mapping[str, Any]) -> bool:
    """Count the facts of a ``flights.legs`` record into ``board``, in place.

    Returns whether any was new. Means and worst route are left as they were: ``rank_routes`` works them out, once
    per batch.
    """
    source, legs = record["source"], record["legs"]
    counted = board["applied"].get(source, -1)
    fresh = [leg for leg in legs if leg["offset"] > counted]
    if not fresh:
        return False
    for leg in fresh:
        _count(board, leg)
    board["applied"][source] = fresh[-1]["offset"]
    return True


def _count(board: Value, leg: Mapping[str, Any]) -> None:
    kind, delay = leg["kind"], leg["delay_minutes"]
    if kind == "CANCELLED":
        board["cancellations"] += 1
        return
    if kind == "DEPARTED":
        board["departures"] += 1
        board["departure_delay_minutes"] += delay
        return
    if leg["destination"] == board["airport"]:
        board["arrivals"] += 1
        if delay is not None:
            board["arrivals_timed"] += 1
            board["arrival_delay_minutes"] += delay
    if delay is not None:
        route = f"{leg['origin']}-{leg['destination']}"
        totals = board["routes"].setdefault(route, {"arrivals": 0, "delay_minutes": 0})
        totals["arrivals"] += 1
        totals["delay_minutes"] += delay


def fold_weather(board: Value, event: Mapping[str, Any]) -> bool:
    """Take over an observation that is newer than the board's, in place; returns whether it was."""
    latest = board["weather"]
    if latest is not None and latest["observed_at"] >= event["observed_at"]:
        return False
    names = ("observed_at", "temperature_f", "wind_speed_mph", "visibility_miles")
    board["weather"] = {name: event[name] for name in names}
    return True


def rank_routes(board: Value) -> None:
    """Bring the means and the worst route up to the totals, in place."""
    board["mean_departure_delay"] = _mean(board["departure_delay_minutes"], board["departures"])
    board["mean_arrival_delay"] = _mean(board["arrival_delay_minutes"], board["arrivals_timed"])
    board["worst_route"] = board["worst_route_delay"] = None
    for route, totals in sorted(board["routes"].items()):
        mean = totals["delay_minutes"] / totals["arrivals"]
        enough = totals["arrivals"] >= _TIMED_ARRIVALS
        if enough and (board["worst_route_delay"] is None or mean > board["worst_route_delay"]):
            board["worst_route"], board["worst_route_delay"] = route, mean


def _mean(total: int, count: int) -> float | None:
    return total / count if count else None
