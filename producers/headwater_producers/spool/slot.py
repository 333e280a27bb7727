"""A folder of its own for each process that spools: numbered slots, each held by a file lock.

Locks go with their process, however it ends, so the slot of a killed process is free at once: the next producer that
starts takes it, with what waits there. A process that starts takes a slot with records before an empty one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headwater_schemas.errors import SettingError

__all__ = ["Slot", "SlotContents", "look_into"]

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


@dataclass(frozen=True, slots=True)
class SlotContents:
    """What lies in a slot, as its files tell.

    Args:
        path: the slot's folder.
        size: bytes of events that wait. The last segment may hold some that were sent already.
        since: when the oldest of these files was begun or last written, in seconds since the epoch; 0 if there is none.
        rejected: bytes of events that the broker refused for good.
    """

    path: Path
    size: int
    since: float
    rejected: int


def look_into(folder: Path) -> list[SlotContents]:
    """The slots of a spool folder, whoever holds them. Touches nothing; an absent folder has none.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.exists():
        return []
    slots = sorted(path for path in folder.iterdir() if path.name.isdecimal())
    return [SlotContents(path, *_weighed(path), _weighed(path / "rejected")[0]) for path in slots]


def _weighed(folder: Path) -> tuple[int, float]:
    """Bytes of the segments that are not empty, and when the oldest was last written."""
    stats = []
    for path in folder.glob("*.log"):
        try:
            stats.append(path.stat())
        except FileNotFoundError:  # sent and deleted meanwhile
            continue
    full = [stat for stat in stats if stat.st_size]
    return sum(stat.st_size for stat in full), min((stat.st_mtime for stat in full), default=0.0)


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
