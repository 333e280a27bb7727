"""Handlers whose effect a repeated record does not repeat.

A handler may see a record more than once: after a crash, a rebalance, a redrive, or when its sender emitted it twice.
``@idempotent`` remembers what was handled, in one of two places that differ in what they promise:

* ``RedisMarks``: for effects anywhere. Still at least once: a crash between the effect and its mark lets the record
  run again. What it spares you is every repetition that comes after the mark.
* ``Inbox``: for effects in one SQL database. The mark is a row of the handler's own transaction, so effect and mark
  are committed together or not at all: what the record does *to that database* is done once.

``Inbox`` needs SQLAlchemy (``headwater-producers[outbox]`` brings it) and is imported from
``headwater_streams.idempotency.inbox``.
"""

from headwater_streams.idempotency.decorator import idempotent
from headwater_streams.idempotency.marks import InProgress, RedisMarks

__all__ = ["InProgress", "RedisMarks", "idempotent"]
