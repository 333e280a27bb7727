"""What a worker remembers of the partitions it holds: the flights and boards that its handlers fold into.

Memory is only a copy: ``flight.changes`` and ``airport-board.changes`` hold the same, and a worker that is given a
partition reads them to their ends before it folds anything. Folding changes nothing here until ``keep`` is called,
so a batch that fails half-way and is tried again starts from the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from headwater_ops.demo.boards import Fact, fold_legs, fold_weather, new_board, rank_routes
from headwater_ops.demo.flights import OFFSETS, Enrich, complete, fold_flight
from headwater_ops.demo.topics import ARRIVED, CANCELLED, DEPARTED, WEATHER

__all__ = ["Boards", "Flights", "Read"]

Value = dict[str, Any]

_KINDS = {DEPARTED: "DEPARTED", ARRIVED: "ARRIVED", CANCELLED: "CANCELLED"}
_SLOTS = {topic: slot for slot, topic in enumerate(_KINDS)}


class Read(NamedTuple):
    """One record as it was read."""

    topic: str
    offset: int
    key: str
    value: Mapping[str, Any]


class Flights:
    """The flights of one partition.

    Of a flight about which everything is known only the offsets of its events are kept, to tell repetitions: a year
    of flights in full would take 250 MB, this takes a third.
    """

    def __init__(self) -> None:
        self._open: dict[str, Value] = {}
        self._complete: dict[str, tuple[int | None, ...]] = {}

    def fold(self, records: Iterable[Read], enrich: Enrich) -> tuple[dict[str, Value], list[Fact]]:
        """The new state of each flight that ``records`` change, and the facts that boards must hear of.

        A record that was joined in before changes nothing, but its fact is told again: the worker that joined it in may
        have died before its fact was on the log. Boards know repeated facts by their offsets. A *second event* of the
        same kind, at another offset, is no fact.
        """
        changed: dict[str, Value] = {}
        facts = []
        for record in records:
            topic, offset, key, value = record
            over = self._complete.get(key)
            if over is not None:
                known = topic in _SLOTS and over[_SLOTS[topic]] == offset
            else:
                before = changed.get(key) or self._open.get(key)
                state = fold_flight(before, topic, offset, value, enrich)
                if state is not None:
                    changed[key] = state
                known = state is not None or (before is not None and before[OFFSETS[topic]] == offset)
            if known and topic in _KINDS:
                delay = value.get("delay_minutes")
                facts.append(Fact(offset, _KINDS[topic], value["origin"], value["destination"], delay))
        return changed, facts

    def keep(self, states: Mapping[str, Value]) -> None:
        """Remember states that are on their way to the log."""
        for key, state in states.items():
            if complete(state):
                self._open.pop(key, None)
                self._complete[key] = tuple(state[OFFSETS[topic]] for topic in _SLOTS)
            else:
                self._open[key] = state


class Boards:
    """The boards of one partition, each with the version of its last change."""

    def __init__(self) -> None:
        self._boards: dict[str, tuple[int, Value]] = {}

    def fold(self, records: Iterable[Read]) -> dict[str, tuple[int, Value]]:
        """The new version and state of each board that ``records`` change."""
        touched: dict[str, Value] = {}
        changed: set[str] = set()
        for record in records:
            board = touched.get(record.key)
            if board is None:
                board = touched[record.key] = self._copy(record.key)
            fold = fold_weather if record.topic == WEATHER else fold_legs
            if fold(board, record.value):
                changed.add(record.key)
        states = {}
        for key in changed:
            rank_routes(touched[key])
            states[key] = self._boards[key][0] + 1 if key in self._boards else 1, touched[key]
        return states

    def keep(self, states: Mapping[str, tuple[int, Value]]) -> None:
        """Remember boards that are in the log."""
        self._boards.update(states)

    def _copy(self, airport: str) -> Value:
        if airport not in self._boards:
            return new_board(airport)
        board = self._boards[airport][1]
        routes = {route: totals.copy() for route, totals in board["routes"].items()}
        return board | {"routes": routes, "applied": board["applied"].copy()}
