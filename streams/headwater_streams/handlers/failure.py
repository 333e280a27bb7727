"""What is written beside a failed record: the ``hw-*`` headers, added, never in place of the record's own."""

from __future__ import annotations

import hashlib
import math
import re
import traceback
from itertools import dropwhile
from pathlib import Path

from headwater_schemas import wire
from headwater_streams.handlers.message import Headers

__all__ = ["FENCE", "HOLD", "HOLDS", "RELEASES", "due_stamp", "failure_headers", "fingerprint", "header", "merge"]

FENCE = "hw-fence"
"""Which assignment of a partition wrote a retry record; see ``fences``."""

HOLD = "hw-hold"
"""On a record of the parking log: no event, but what says that a key is held, or released. On a dead letter: that it
holds its key. On what an operator sends to a tier: release the key without running the record."""

HOLDS = b"holds"
RELEASES = b"releases"

_ENGINE = Path(__file__).parent
_VARYING = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+|'[^']*'|\"[^\"]*\"")


def header(headers: Headers | None, name: str) -> bytes | None:
    """The last header of that name; ``None`` when there is none."""
    found: bytes | None = None
    for key, value in headers or ():
        if key == name:
            found = value
    return found


def merge(original: Headers | None, added: dict[str, bytes]) -> Headers:
    """The original headers in their order, then ours; one of ours that was there already is replaced."""
    return [*((key, value) for key, value in original or () if key not in added), *added.items()]


def due_stamp(at: float) -> bytes:
    """``hw-due-at``, of seconds since the epoch: milliseconds, rounded up, since no retry may come early."""
    # A hundredth of a millisecond is the rounding of floats, not time.
    return f"{math.ceil(at * 1000 - 0.01) / 1000:.3f}".encode()


def fingerprint(handler: str, error: BaseException) -> str:
    """A name for this kind of error: equal for the same fault, whatever the record.

    From the handler, the exception's class, the functions of its stack (not their lines, which move with each
    release) and its message without numbers, ids and quoted values. 16 hex digits. The engine's own functions that
    called the handler do not count: a first attempt and a retry come through different ones.
    """
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame.name for frame in dropwhile(lambda frame: Path(frame.filename).parent == _ENGINE, stack)][-5:]
    text = "\n".join([handler, _class_name(error), *frames, _VARYING.sub("#", str(error))[:200]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def failure_headers(handler: str, reason: wire.Reason, error: BaseException) -> dict[str, bytes]:
    """Reason, class, message, stack (cut at 8 KiB, its end kept: that is where it broke) and fingerprint."""
    stack = "".join(traceback.format_exception(error)).encode()
    return {
        wire.HW_REASON: reason.encode(),
        wire.HW_EXCEPTION_CLASS: _class_name(error).encode(),
        wire.HW_EXCEPTION_MESSAGE: str(error).encode()[:1024],
        wire.HW_EXCEPTION_STACK: stack[-wire.EXCEPTION_STACK_BYTES :],
        wire.HW_FINGERPRINT: fingerprint(handler, error).encode(),
    }


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
