"""A table of a database, as a source: one sequence of versions, an outbox of change events in commit order."""

from __future__ import annotations

import threading
from collections.abc import Callable

from headwater_cache import Change, Loaded, MsgpackValues, Position, version

VALUES = MsgpackValues[int]()


class Table:
    """Rows by key. ``after_load`` runs after the next load, to write in between."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int]] = {}
        self.sequence = 0
        self.events: list[Change] = []
        self.loads = 0
        self.error: Exception | None = None
        self.after_load: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, count: int) -> Table:
        """With the rows k0, k1, …, whose values are their numbers."""
        table = cls()
        for number in range(count):
            table.write(f"k{number}", number)
        return table

    def load(self, key: str) -> Loaded[int] | None:
        with self._lock:
            self.loads += 1
            if self.error is not None:
                raise self.error
            row = self.rows.get(key)
        if self.after_load is not None:
            hook, self.after_load = self.after_load, None
            hook()
        return Loaded(*row) if row else None

    def behind(self, changes: int) -> Callable[[str], Loaded[int] | None]:
        """The load of a replica that lacks the last so many changes."""

        def load(key: str) -> Loaded[int] | None:
            seen = self.events[: max(0, len(self.events) - changes)]
            last = next((change for change in reversed(seen) if change.key == key), None)
            if last is None or last.value is None:
                return None
            return Loaded(VALUES.decode(0, last.value), int(last.version))

        return load

    def write(self, key: str, value: int | None) -> int:
        with self._lock:
            if self.error is not None:
                raise self.error
            self.sequence += 1
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = (value, self.sequence)
            self.events.append(self.event(key, value, self.sequence))
            return self.sequence

    def event(self, key: str, value: int | None, number: int) -> Change:
        payload = None if value is None else VALUES.encode(value)[1]
        return Change(key, version(number), payload, 0, Position("table.changes", 0, len(self.events)))
