"""The leaves that producers add to the error tree, each below the branch that says what the caller does."""

from __future__ import annotations

from headwater_schemas.errors import Unavailable, UsageError

__all__ = ["DeliveryPending", "OutboxUnavailable", "ProducerClosed", "SpoolUnavailable"]


class DeliveryPending(Unavailable, TimeoutError):
    """The time given to wait is over and the broker has not answered yet. The record may still be delivered.

    It is a ``TimeoutError`` too, as callers of ``concurrent.futures`` expect. Do not emit the event again for it: wait
    longer, or take a duplicate into account.
    """


class ProducerClosed(UsageError):
    """The producer was closed; make a new one."""


class SpoolUnavailable(Unavailable):
    """The broker is away and the spool cannot be written: the disk is full or broken. The event was not accepted."""


class OutboxUnavailable(Unavailable):
    """The database of the outbox does not answer. What is in it waits there."""
