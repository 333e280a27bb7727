"""Numbers of variable length, as Avro and Protocol Buffers write them."""

from __future__ import annotations

__all__ = ["varint"]


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte, the lowest first; all bytes but the last have the high bit."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
