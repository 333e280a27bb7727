"""Rates as people write them: ``"100/s"``, ``"30/m"``, ``"10/h"``."""

from __future__ import annotations

import re

from headwater_schemas.errors import UsageError

__all__ = ["per_second"]

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def per_second(rate: str) -> float:
    """The rate as events per second.

    Raises:
        UsageError: not of that form, or not above zero.
    """
    match = _PATTERN.fullmatch(rate.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(
            f"{rate!r} is not a rate: pass so many per second, minute or hour, e.g. '100/s', '30/m', '10/h'"
        )
    return float(match[1]) / _UNITS[match[2]]
