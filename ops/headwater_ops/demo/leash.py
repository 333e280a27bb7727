"""Runs the demo's worker on a leash: ``python -m headwater_ops.demo.leash`` ends when its standard input does.

So no worker is left behind, also when whoever started it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["main"]


def main() -> None:
    """``headwater worker headwater_ops.demo.app:app`` until SIGTERM or the end of standard input."""
    from headwater_ops.cli import main as headwater

    threading.Thread(target=_end_with_input, name="leash", daemon=True).start()
    headwater(["worker", "headwater_ops.demo.app:app", "--log-level", "warning"])


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
