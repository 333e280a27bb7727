"""What may name a task type, and how task ids are made."""

from __future__ import annotations

import random
import re
import time
import uuid
from functools import lru_cache
from typing import Final

from headwater_schemas.errors import UsageError

__all__ = ["TYPE_LENGTH", "TYPE_PATTERN", "check_type", "new_id", "task_id"]

TYPE_PATTERN: Final = r"[a-z0-9]+([._-][a-z0-9]+)*"
TYPE_LENGTH: Final = 100
_NAMESPACE: Final = uuid.UUID("6f0a4a52-6f0e-5d0c-9a55-5b8a3f1f2c11")
_KEY_LENGTH: Final = 200


@lru_cache(maxsize=1024)
def check_type(type_: str) -> str:
    """``type_`` itself, when it can name a task.

    Raises:
        UsageError: it cannot.
    """
    if len(type_) > TYPE_LENGTH or re.fullmatch(TYPE_PATTERN, type_) is None:
        raise UsageError(
            f"{type_!r} cannot name a task: pass words of a-z 0-9 joined by '.', '_' or '-', such as 'invoice.render'"
        )
    return type_


def task_id(type_: str, idempotency_key: str | None) -> str:
    """The id of a task: a new one, or the one that type and key give (a UUID of version 5).

    Raises:
        UsageError: an empty or overlong key.
    """
    if idempotency_key is None:
        return new_id(time.time())
    if not 0 < len(idempotency_key) <= _KEY_LENGTH:
        raise UsageError(f"an idempotency key has 1 to {_KEY_LENGTH} characters; this one has {len(idempotency_key)}")
    return str(uuid.uuid5(_NAMESPACE, f"{type_}\n{idempotency_key}"))


def new_id(now: float) -> str:
    """A UUID of version 7 (RFC 9562): milliseconds, then 74 random bits; ids made later sort later.

    The bits are of ``random``'s generator, which starts from the system's randomness and anew after a fork; asking the
    system for each would cost as much as the whole submission. An id is a name and no secret.
    """
    number = (int(now * 1000) << 80) | (7 << 76) | (2 << 62)
    number |= (random.getrandbits(12) << 64) | random.getrandbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
