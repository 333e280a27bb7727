"""The spool: where accepted events wait on disk while the broker is away.

``log`` keeps bytes safe, ``slot`` gives a process a folder of its own, ``delivery`` is an event that can move to disk,
``spooler`` decides what goes where, and when.
"""

from headwater_producers.spool.slot import SlotContents, look_into
from headwater_producers.spool.spooler import Spooler

__all__ = ["SlotContents", "Spooler", "look_into"]
