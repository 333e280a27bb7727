"""A progress bar on stderr while artifacts are downloaded; nothing when all are cached."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["ProgressBar"]


class ProgressBar:
    """Implements ``download.Progress``."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def expect(self, total_bytes: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("downloading Kafka and the registry", total=total_bytes)
        else:
            self._bar.update(self._task, total=(self._bar.tasks[0].total or 0) + total_bytes)

    def advance(self, fetched_bytes: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=fetched_bytes)
