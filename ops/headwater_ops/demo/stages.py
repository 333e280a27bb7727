"""The stages of a run: shown live, and timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from headwater_schemas.clock import Clock, SystemClock

__all__ = ["Stage", "Stages"]


class Stage:
    """One stage under way."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: int, total: int, note: str) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total, note=note)

    def note(self, text: str) -> None:
        """Show a remark beside it."""
        self._progress.update(self._task, note=text)


class Stages:
    """Shows stages on stderr while it is entered, nothing when ``quiet``; remembers how long each took (seconds)."""

    def __init__(self, *, quiet: bool = False, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
            refresh_per_second=4,
        )
        self.current: str | None = None
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Stage]:
        """A stage, from entering to leaving; ``name`` is what its time is filed under."""
        self.current = name
        started = self._clock.monotonic()
        task = self._progress.add_task(title, total=None, note="")
        yield Stage(self._progress, task)
        self.current = None
        self.seconds[name] = self._clock.monotonic() - started
        self._progress.update(task, total=1, completed=1)
