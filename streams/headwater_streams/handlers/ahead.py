"""What is settled beyond the committed offset, kept in the commit's metadata: exactly once needs to know it.

Records of other keys run ahead of the oldest unsettled one, so a committed offset alone says too little: what stands
behind it and is settled would run again after a restart. A commit therefore carries, per handler, up to where records
were begun and which of them were not settled. (The same thing by the same means: Confluent's Parallel Consumer.)

The commit of a retry topic's partition also carries its ``owners``.

Kafka takes 4,096 bytes of metadata with an offset (``offset.metadata.max.bytes``); see ``TooFarAhead``.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from faust.types import TP

from headwater_schemas.errors import UsageError
from headwater_schemas.varint import varint
from headwater_streams.handlers.owners import Owners, since

__all__ = ["GAP", "Ahead", "TooFarAhead", "by_partition", "decode", "decode_owners", "encode"]

GAP = 16_000
"""Records that a partition may run ahead of its oldest unsettled one: as many bits as always fit the metadata."""

_MOST = 4_000  # characters
_OWNERS = "@owners"  # beside the names of handlers


class TooFarAhead(UsageError):
    """More is settled beyond the oldest unsettled record than a commit can tell. Nothing is committed."""


class Ahead:
    """One handler's part of one partition: everything below ``high`` is settled, except ``open``."""

    __slots__ = ("high", "open")

    def __init__(self, high: int, unsettled: Iterable[int] = ()) -> None:
        self.high = high
        self.open = frozenset(unsettled)

    def __contains__(self, offset: int) -> bool:
        return offset < self.high and offset not in self.open

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ahead) and (self.high, self.open) == (other.high, other.open)

    def __hash__(self) -> int:
        return hash((self.high, self.open))

    def __repr__(self) -> str:
        return f"Ahead({self.high}, {sorted(self.open)})"

    @property
    def low(self) -> int:
        """The lowest unsettled offset."""
        return min(self.open, default=self.high)


def by_partition(high: Mapping[TP, int], unsettled: Iterable[tuple[TP, int]]) -> dict[TP, Ahead]:
    """Each partition's part, of where its records were begun and which of all were not settled."""
    places: dict[TP, list[int]] = {tp: [] for tp in high}
    for tp, offset in unsettled:
        if tp in places and offset < high[tp]:
            places[tp].append(offset)
    return {tp: Ahead(high[tp], offsets) for tp, offsets in places.items()}


def encode(base: int, parts: Mapping[str, Ahead], owners: Owners = ()) -> str:
    """The metadata of committing ``base``, the lowest of all parts; empty when there is nothing to tell.

    Raises:
        TooFarAhead: it is longer than Kafka takes.
    """
    told: dict[str, object] = {name: _pack(base, part) for name, part in parts.items() if part.high > base}
    if owners:
        told[_OWNERS] = [[start, epoch.decode()] for start, epoch in since(owners, base)]
    if not told:
        return ""
    text = json.dumps(told, separators=(",", ":"))
    if len(text) > _MOST:
        raise TooFarAhead(f"{len(text)} characters would have to tell what is settled beyond offset {base}")
    return text


def decode(base: int, text: str | None) -> dict[str, Ahead]:
    """The parts that ``encode`` was given. Metadata that is not ours tells nothing."""
    try:
        return {name: _unpack(base, packed) for name, packed in _told(text).items() if name != _OWNERS}
    except (ValueError, TypeError, AttributeError, IndexError, zlib.error):
        return {}


def decode_owners(text: str | None) -> Owners:
    """The owners that ``encode`` was given. Metadata that is not ours names none."""
    try:
        return tuple((int(start), epoch.encode()) for start, epoch in _told(text).get(_OWNERS, []))
    except (ValueError, TypeError, AttributeError):
        return ()


def _told(text: str | None) -> dict[str, Any]:
    told = json.loads(text) if text and text.startswith("{") else {}
    return told if isinstance(told, dict) else {}


def _pack(base: int, part: Ahead) -> str:
    """A letter for the form, then base 64: distances between the open offsets, or a bit for each offset."""
    places = sorted(offset - base for offset in part.open)
    distances = b"".join(varint(after - before) for before, after in pairwise([0, *places]))
    span = part.high - base
    forms = [("d", varint(span) + distances)]
    if span <= 2 * GAP:
        bits = sum(1 << place for place in places)
        forms.append(("b", varint(span) + bits.to_bytes(span // 8 + 1, "little")))
    letter, raw = min(((letter, zlib.compress(raw, 9)) for letter, raw in forms), key=lambda form: len(form[1]))
    return letter + base64.b64encode(raw).decode()


def _unpack(base: int, packed: str) -> Ahead:
    raw = zlib.decompress(base64.b64decode(packed[1:]))
    span, at = _number(raw, 0)
    if packed[0] == "b":
        bits = int.from_bytes(raw[at:], "little")
        return Ahead(base + span, (base + place for place in range(span) if bits >> place & 1))
    places, place = [], 0
    while at < len(raw):
        distance, at = _number(raw, at)
        place += distance
        places.append(base + place)
    return Ahead(base + span, places)


def _number(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return number, at
