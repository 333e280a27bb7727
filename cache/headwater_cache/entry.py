"""The entry: what one key of Redis holds.

    offset size  field
    0      1     state: V value, T tombstone, N negative (the source had none), F fence (known newer, never served)
    1      1     format of this header, "1"
    2      8     version domain, padded with spaces
    10     30    version, fixed-width text
    40     8     written at, ms since the epoch (the clock of the writer)
    48     8     soft expiry, ms; 0 = never: from here on serve and refresh
    56     8     hard expiry, ms; 0 = never: from here on do not serve
    64     4     how long the source took to load it, ms
    68     4     schema id of the payload
    72     2     length of the tag block
    74     …     tag block (msgpack map: tag -> generation read before the source), then the payload (of a fence:
                 V if what is known to be newer is a value)

State, domain and version stand first, so that the scripts read 40 bytes of an entry, whatever its size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from headwater_cache.versions import DOMAIN_WIDTH, Version
from headwater_schemas.errors import NotDecodable

__all__ = ["HEADER_SIZE", "NO_TAGS", "PREFIX_SIZE", "SEEN_SIZE", "Entry", "State", "glance", "pack", "unpack"]

State = Literal["V", "T", "N", "F"]

_HEADER = struct.Struct(">1s1s8s30sQQQIIH")
_FORMAT = b"1"
HEADER_SIZE = _HEADER.size
_TAIL = struct.Struct(">QQIIH")
_TAIL_AT = HEADER_SIZE - _TAIL.size
PREFIX_SIZE = 40
SEEN_SIZE = 64
"""So much of an entry tells it from every other one its key ever had: state, domain, version and all stamps."""

NO_TAGS: Mapping[str, int] = {}


class Entry(NamedTuple):
    """A decoded entry. Stamps in ms since the epoch, 0 = never."""

    state: State
    domain: str
    version: Version
    written_at: int
    soft: int
    hard: int
    load_ms: int
    schema_id: int
    tags: Mapping[str, int]
    payload: bytes


def pack(
    state: State,
    domain: str,
    version: Version,
    payload: bytes = b"",
    *,
    written_at: int,
    soft: int = 0,
    hard: int = 0,
    load_ms: int = 0,
    schema_id: int = 0,
    tags: Mapping[str, int] = NO_TAGS,
) -> bytes:
    """The bytes of an entry."""
    block = msgspec.msgpack.encode(tags) if tags else b""
    header = _HEADER.pack(
        state.encode(),
        _FORMAT,
        domain.encode().ljust(DOMAIN_WIDTH),
        version.encode(),
        written_at,
        soft,
        hard,
        min(load_ms, 0xFFFFFFFF),
        schema_id,
        len(block),
    )
    return header + block + payload


def unpack(data: bytes) -> Entry:
    """The entry in these bytes.

    Raises:
        NotDecodable: another program wrote the key, or a newer format did.
    """
    if len(data) < HEADER_SIZE or data[1:2] != _FORMAT or data[0] not in b"VTNF":
        raise NotDecodable(f"not a cache entry of format 1: {data[:12]!r}")
    state, _, domain, version, written_at, soft, hard, load_ms, schema_id, tag_size = _HEADER.unpack_from(data)
    end = HEADER_SIZE + tag_size
    tags = msgspec.msgpack.decode(data[HEADER_SIZE:end], type=dict[str, int]) if tag_size else NO_TAGS
    return Entry(
        _STATES[state],
        domain.rstrip().decode(),
        version.decode(),
        written_at,
        soft,
        hard,
        load_ms,
        schema_id,
        tags,
        data[end:],
    )


def glance(data: bytes, domain: bytes) -> tuple[Version, int, int, int, int, bytes] | None:
    """Version, soft and hard expiry, load time, schema id and payload of a plain value; ``None`` for anything else.

    Most reads meet an untagged value of their own domain. This tells so at a third of the cost of ``unpack``.

    Args:
        data: an entry.
        domain: the version domain, padded as it stands in entries.
    """
    if data[:2] != b"V1" or data[2:10] != domain or len(data) < HEADER_SIZE:
        return None
    soft, hard, load_ms, schema_id, tag_size = _TAIL.unpack_from(data, _TAIL_AT)
    if tag_size:
        return None
    return Version(data[10:40].decode()), soft, hard, load_ms, schema_id, data[HEADER_SIZE:]


_STATES: dict[bytes, State] = {b"V": "V", b"T": "T", b"N": "N", b"F": "F"}
