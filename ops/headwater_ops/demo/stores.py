"""What a worker remembers of the partitions it holds: the flights and boards that its handlers fold into.

Memory is only a copy: ``flight.changes`` and ``airport-board.changes`` hold the same, and a worker that is given a
partition reads them to their ends before it folds anything (see ``restore``). Folding changes nothing here until the
change events are acknowledged and ``keep`` is called, so that a batch that is tried again starts from the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from headwater_ops.demo.boards import Fact, fold_legs, fold_weather, new_board, rank_routes
from headwater_ops.demo.events import ARRIVED, CANCELLED, DEPARTED, WEATHER
from headwater_ops.demo.flights import Enrich, complete, facts_known, fold_flight

__all__ = ["Boards", "Flights", "Read"]

Value = dict[str, Any]

_KINDS = {DEPARTED: "DEPARTED", ARRIVED: "ARRIVED", CANCELLED: "CANCELLED"}


class Read(NamedTuple):
    """One record as it was read."""

    topic: str
    offset: int
    key: str
    value: Mapping[str, Any]


class Flights:
    """The flights of one partition.

    Of a flight about which everything is known only the id is kept, to tell repetitions: a year of flights in full
    would take 200 MB, the ids take a fifth of that.
    """

    def __init__(self) -> None:
        self._open: dict[str, Value] = {}
        self._complete: set[str] = set()

    def fold(self, records: Iterable[Read], enrich: Enrich) -> tuple[dict[str, Value], list[Fact]]:
        """The new state of each flight that ``records`` change, and the facts among them that are new."""
        changed: dict[str, Value] = {}
        facts = []
        for record in records:
            key = record.key
            if key in self._complete:
                continue
            state = fold_flight(changed.get(key) or self._open.get(key), record.topic, record.value, enrich)
            if state is None:
                continue
            changed[key] = state
            kind = _KINDS.get(record.topic)
            if kind is not None:
                value = record.value
                delay = value.get("delay_minutes")
                facts.append(Fact(record.offset, kind, value["origin"], value["destination"], delay))
        return changed, facts

    def keep(self, states: Mapping[str, Value]) -> None:
        """Remember states that are in the log."""
        for key, state in states.items():
            if complete(state):
                self._open.pop(key, None)
                self._complete.add(key)
            else:
                self._open[key] = state

    @staticmethod
    def version(state: Mapping[str, Any]) -> int:
        """Version of a state: it grows with every change."""
        return facts_known(state)


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
