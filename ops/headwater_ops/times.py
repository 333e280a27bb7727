"""Times as operators write them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from headwater_schemas.durations import seconds
from headwater_schemas.errors import UsageError

__all__ = ["moment"]


def moment(text: str) -> float:
    """Seconds since the epoch, of ISO 8601 (UTC unless it says otherwise) or of an age such as ``15m``.

    Raises:
        UsageError: it is neither.
    """
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        try:
            return time.time() - seconds(text)
        except UsageError:
            raise UsageError(
                f"{text!r} is no time: pass ISO 8601, such as 2026-11-24T09:30, or an age such as 15m"
            ) from None
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
