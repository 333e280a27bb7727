"""Back pressure: what ``emit`` does when the bounded queue to the broker is full. Nothing is ever dropped for it."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_schemas.errors import SettingError

__all__ = ["BackPressure", "Block", "Refuse"]


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


BackPressure = Block | Refuse
