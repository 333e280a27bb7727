"""What a handler did, noted outside of Kafka, for the verdict of a run with faults."""

from __future__ import annotations

import json
import os
import time
from functools import cache

__all__ = ["note_effect"]


def note_effect(event_id: str) -> None:
    """Note that the effect of the event with this id (``EventContext.id``) has happened; call it last in a handler.

    Appends one line to the file that ``HEADWATER_TEST_EFFECTS`` names, in one write, so that lines of several
    processes never mix and stand in the order in which they were written. Does nothing where it is not set, so that an
    app may keep the call in production. Blocks for one write to the page cache; not fsynced, so it outlives the
    process, not the machine.
    """
    file = _file()
    if file is not None:
        os.write(file, json.dumps([event_id, os.getpid(), round(time.time(), 6)]).encode() + b"\n")


@cache
def _file() -> int | None:
    path = os.environ.get("HEADWATER_TEST_EFFECTS")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else None
