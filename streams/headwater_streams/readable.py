"""A record as people and ``jq`` read it: decoded where it can be, as hex with the reason where not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from headwater_schemas.errors import BadRecord
from headwater_streams.handlers.message import Headers, Message

__all__ = ["instant", "json_line", "readable", "readable_headers", "readable_value", "text"]


def readable(message: Message, decode: Callable[[bytes | None], Any]) -> dict[str, Any]:
    """The record as a dict that ``json_line`` takes.

    ``value`` is the decoded value; where the bytes are not what ``decode`` takes, it is ``None`` and ``undecodable``
    has them as hex, with the reason.

    Raises:
        Unavailable: decoding needs something that does not answer now; nothing is known of the record.
    """
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": instant(message.timestamp()[1] / 1000),
        "key": text(message.key()),
        "headers": readable_headers(message.headers()),
        **readable_value(message.value(), decode),
    }


def readable_value(value: bytes | None, decode: Callable[[bytes | None], Any]) -> dict[str, Any]:
    """``value``, and ``undecodable`` where it has to be."""
    try:
        return {"value": decode(value)}
    except BadRecord as exc:
        assert value is not None
        return {"value": None, "undecodable": {"hex": value.hex(), "why": f"{type(exc).__name__}: {exc}"}}


def readable_headers(headers: Headers | None) -> dict[str, Any]:
    """By name; a name that stands there several times has a list."""
    found: dict[str, Any] = {}
    for name, value in headers or ():
        shown = text(value)
        if name not in found:
            found[name] = shown
        elif isinstance(found[name], list):
            found[name].append(shown)
        else:
            found[name] = [found[name], shown]
    return found


def text(data: bytes | None) -> str | None:
    """UTF-8, or ``0x`` and hex for what is not."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"


def instant(seconds: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_line(value: object) -> str:
    """One line of JSON: times as ISO 8601, bytes as base64, decimals and UUIDs as text, as ``emit`` takes them."""
    return msgspec.json.encode(value, enc_hook=str).decode()
