"""A delivery whose event can move to disk."""

from __future__ import annotations

from typing import Any

from headwater_producers.delivery import Delivery, Waiter
from headwater_producers.envelope import Header
from headwater_producers.spool.entry import Entry, Record
from headwater_schemas.errors import HeadwaterError

__all__ = ["SpooledDelivery"]


class SpooledDelivery(Delivery, gc=False, eq=False):
    """Holds its event until the broker or the disk has it."""

    accepted_at: float = 0.0
    event: tuple[bytes | None, bytes | None, list[Header]] | None = None
    """Key, value, headers."""
    size: int = 0
    """About its bytes on disk."""
    entry: Entry | None = None
    """Set when it is handed to librdkafka *and* to be written to the log, so that the log hears of its end."""

    def settle(self, error: Any, message: Any) -> None:
        """librdkafka's report; see ``Delivery.settle``."""
        if self.entry is not None:
            self.entry.settle(error, message)
        if self.state == "pending":
            self.event = None
            Delivery.settle(self, error, message)

    def record(self) -> Record | None:
        """What to write to the log; ``None`` when it is no longer needed there."""
        event = self.event
        if event is None:
            return None
        return Record(self.topic, *event, self.accepted_at)

    def spooled(self) -> list[Waiter]:
        """It is safe on disk. Gives who waits for it."""
        self.event = None
        return self._resolve_as("spooled", None)

    def failed(self, error: HeadwaterError) -> list[Waiter]:
        """It could not be kept. Gives who waits for it."""
        self.event = None
        return self._resolve_as("failed", error)
