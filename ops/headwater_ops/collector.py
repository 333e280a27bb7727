"""Python's cycle collector, tuned for long streams of short-lived objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["calm", "paused"]

_NEW_OBJECTS = 50_000


def calm() -> None:
    """Collect seldom from here on, and never what exists by now.

    Events are freed by their reference counts. The collector only looks for cycles, by default after every 700 new
    objects, and now and then among all that live: with state of a million objects that is a good part of the processor.
    The price: memory held by cycles is freed later. See CPython's ``gc.freeze``.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 50)


@contextmanager
def paused() -> Iterator[None]:
    """No collection within the block, in any thread: for one that makes very many objects and no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
