"""The embedded stack as test backend: on free ports, in a temporary folder, never left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater_ops.stack import Stack

__all__ = ["embedded"]

# Stops the stack when its standard input ends: after the tests, and also when pytest itself is killed, so that no run
# leaves servers behind.
_JANITOR = """
import sys
from pathlib import Path
order = sys.stdin.read()
from headwater_ops.stack import Stack
Stack(Path(sys.argv[1])).down(wipe=order == "wipe")
"""


@contextmanager
def embedded(folder: Path, *, brokers: int = 1) -> Iterator[Stack]:
    """A stack of which nothing runs yet; what the block starts is stopped at its end.

    Logs and data are removed unless the block ends with an error.
    """
    stack = Stack(folder, brokers=brokers, ports="free")
    janitor = [sys.executable, "-c", _JANITOR, str(folder)]
    with subprocess.Popen(janitor, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield stack
        assert process.stdin is not None
        process.stdin.write("wipe")
    assert process.returncode == 0, f"the stack in {folder} could not be stopped"
