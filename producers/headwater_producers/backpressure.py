"""Back pressure: what ``emit`` does when the bounded queue to the broker is full. Nothing is ever dropped for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headwater_schemas.errors import SettingError

__all__ = ["BackPressure", "Block", "Refuse", "Spool"]


@dataclass(frozen=True, slots=True)
class Block:
    """Wait for room, then raise ``Overloaded``.

    A call from a running event loop is refused at once instead, since waiting would stop the loop: there, ``await
    producer.drain()`` between emits.

    Args:
        seconds: how long to wait for room.
    """

    seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise SettingError(f"HEADWATER_PRODUCER_BLOCK={self.seconds}: pass a duration of zero or more, e.g. '10s'")


@dataclass(frozen=True, slots=True)
class Refuse:
    """Raise ``Overloaded`` at once. For callers that can say no themselves, such as an HTTP endpoint (503)."""


@dataclass(frozen=True, slots=True)
class Spool:
    """Keep events on disk while the broker is away, and send them in order when it is back.

    Args:
        folder: where; each process takes a slot of its own in it. On a disk that outlives the process.
        max_bytes: how much disk; beyond it ``emit`` raises ``Overloaded``.
        after: seconds that an event may wait for its acknowledgement before events go to disk. Less accepts earlier,
            more rides out a change of leader without the disk.
    """

    folder: Path
    max_bytes: int = 1024 * 1024 * 1024
    after: float = 5.0

    def __post_init__(self) -> None:
        if self.max_bytes < 1024 * 1024:
            raise SettingError(f"HEADWATER_PRODUCER_SPOOL_BYTES={self.max_bytes}: pass at least 1048576")
        if not self.after > 0:
            raise SettingError(f"HEADWATER_PRODUCER_SPOOL_AFTER={self.after}: pass a duration of more than zero")


BackPressure = Block | Refuse | Spool
