"""Durations as people write them: ``"250ms"``, ``"30s"``, ``"10m"``, ``"1h"``, ``"7d"``, or a number of seconds."""

from __future__ import annotations

import re

from headwater_schemas.errors import UsageError

__all__ = ["Duration", "format_duration", "seconds"]

Duration = str | int | float

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def seconds(duration: Duration) -> float:
    """The duration in seconds.

    Raises:
        UsageError: not a non-negative number and not ``<number><ms|s|m|h|d>``.
    """
    if isinstance(duration, str):
        match = _PATTERN.fullmatch(duration.strip())
        if match is None:
            raise UsageError(f"{duration!r} is not a duration: pass e.g. '250ms', '30s', '10m', '1h', '7d' or seconds")
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(duration, bool) or not duration >= 0:
        raise UsageError(f"{duration!r} is not a duration: pass a non-negative number of seconds or e.g. '30s'")
    return float(duration)


def format_duration(value: float) -> str:
    """The shortest exact form, in the largest unit that divides it: ``90`` gives ``90s``, ``3600`` gives ``1h``."""
    milliseconds = round(value * 1000)
    for unit in ("d", "h", "m", "s"):
        size = round(_UNITS[unit] * 1000)
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
