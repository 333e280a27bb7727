"""The embedded stack as test backend: on free ports, in a temporary folder, never left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater_ops.stack import Stack
from headwater_ops.testing.janitor import stopped_at_end

__all__ = ["embedded"]


@contextmanager
def embedded(folder: Path, *, brokers: int = 1) -> Iterator[Stack]:
    """A stack of which nothing runs yet; what the block starts is stopped at its end.

    Logs and data are removed unless the block ends with an error.
    """
    with stopped_at_end(folder):
        yield Stack(folder, brokers=brokers, ports="free")
