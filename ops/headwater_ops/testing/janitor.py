"""Servers do not outlive the tests that started them, not even when pytest is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater_schemas.errors import HeadwaterError

__all__ = ["StackLeft", "stopped_at_end"]

# Stops the stack when its standard input ends: after the tests, and also when their process is killed.
_JANITOR = """
import sys
from pathlib import Path
order = sys.stdin.read()
from headwater_ops.stack import Stack
Stack(Path(sys.argv[1])).down(wipe=order == "wipe")
"""


class StackLeft(HeadwaterError):
    """The servers of a test run could not be stopped; ``headwater down`` with their folder may."""


@contextmanager
def stopped_at_end(folder: Path) -> Iterator[None]:
    """What the block starts of the stack in ``folder`` is stopped at its end, by a process of its own that also sees
    when this one is killed. Blocks for the stop.

    Logs and data are removed unless the block ends with an error.

    Raises:
        StackLeft: something did not stop.
    """
    janitor = [sys.executable, "-c", _JANITOR, str(folder)]
    with subprocess.Popen(janitor, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield
        assert process.stdin is not None
        process.stdin.write("wipe")
    if process.returncode != 0:
        raise StackLeft(f"the servers in {folder} could not be stopped")
