"""A folder of its own for each process that spools: numbered slots, each held by a file lock.

Locks go with their process, however it ends, so the slot of a killed process is free at once: the next producer that
starts takes it, with what waits there. A process that starts takes a slot with records before an empty one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from headwater_schemas.errors import SettingError

__all__ = ["Slot"]

_LOCK = "lock"


class Slot:
    """A claimed folder. The claim holds until ``close`` or the end of the process.

    Args:
        folder: where the slots are; made if it is missing.

    Raises:
        SettingError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path, self._lock = next(claim for path in _slots(folder) if (claim := _claim(path)) is not None)
        except OSError as exc:
            raise SettingError(f"HEADWATER_PRODUCER_SPOOL_DIR={folder}: cannot be used: {exc}") from exc

    def close(self) -> None:
        """Free the slot."""
        os.close(self._lock)


def _slots(folder: Path) -> Iterator[Path]:
    existing = sorted(path for path in folder.iterdir() if path.name.isdecimal())
    yield from sorted(existing, key=lambda path: not any(path.glob("*.log")))
    number = int(existing[-1].name) + 1 if existing else 0
    while True:  # another process may have made the same one
        yield folder / f"{number:04}"
        number += 1


def _claim(path: Path) -> tuple[Path, int] | None:
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return path, descriptor
