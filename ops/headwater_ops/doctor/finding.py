"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "bad", "good", "odd"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``fail`` means that something does not work; ``warn`` that it works but may hurt later."""

    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    advice: str | None = None


def good(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def odd(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, "warn", detail, advice)


def bad(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, "fail", detail, advice)
