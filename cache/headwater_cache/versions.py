"""Versions: fixed-width decimal text, compared as text.

Redis compares them inside Lua, whose numbers lose bits above 2^53; digits of fixed width compare as text exactly as
the numbers do, in every locale. Ten digits of topic epoch, then twenty of position (an offset, a sequence or an LSN).
"""

from __future__ import annotations

import re
from typing import NewType

import msgspec

from headwater_schemas.errors import UsageError

__all__ = ["DOMAIN_WIDTH", "VERSION_WIDTH", "ZERO", "Version", "VersionToken", "check_domain", "log_version", "version"]

Version = NewType("Version", str)

VERSION_WIDTH = 30
DOMAIN_WIDTH = 8
ZERO = Version("0" * VERSION_WIDTH)

_MAX_EPOCH = 10**10 - 1
_MAX_POSITION = 2**64 - 1
_DOMAIN = re.compile(r"[a-z0-9.-]{1,8}")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def log_version(epoch: int, offset: int) -> Version:
    """The version of a record of a log: (topic epoch, offset).

    The epoch grows by one whenever the topic is made anew or its partition count changes, because then offsets of one
    key no longer compare.

    Raises:
        UsageError: a number is negative or too large.
    """
    if not (_is_number(epoch) and _is_number(offset) and 0 <= offset <= _MAX_POSITION and 0 <= epoch <= _MAX_EPOCH):
        raise UsageError(f"({epoch}, {offset}) is no version: pass 0 <= epoch < 10^10 and 0 <= offset < 2^64")
    return Version(f"{epoch:010d}{offset:020d}")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def version(value: int | str) -> Version:
    """The version that a source gave: a number of ONE sequence per namespace, or a PostgreSQL LSN (``"16/B374D848"``).

    0 is older than everything: pass it for what has no version, never for a row of the sequence.

    A counter per row will not do: it starts again at 1 after a delete, and the reinserted row is refused for ever.

    Raises:
        UsageError: not a number below 2^64 and not an LSN.
    """
    if isinstance(value, str):
        if len(value) == VERSION_WIDTH and value.isdecimal() and value.isascii():
            return Version(value)
        match = _LSN.fullmatch(value)
        if match is None:
            raise UsageError(f"{value!r} is no version: pass a sequence number or an LSN such as '16/B374D848'")
        return log_version(0, (int(match[1], 16) << 32) | int(match[2], 16))
    return log_version(0, value)


def check_domain(domain: str) -> str:
    """The domain, unchanged.

    Raises:
        UsageError: not 1 to 8 characters of ``a-z 0-9 . -``.
    """
    if not _DOMAIN.fullmatch(domain):
        raise UsageError(
            f"{domain!r} is no version domain: pass 1 to 8 characters of a-z 0-9 . - (such as 'log', 'lsn')"
        )
    return domain


class VersionToken(msgspec.Struct, frozen=True):
    """What a write returns: read with ``min_version=token`` and nothing older will be served, in any process.

    ``str(token)`` is a short text for headers and cookies; ``VersionToken.parse`` reads it.
    """

    domain: str
    version: Version

    def __str__(self) -> str:
        return f"{self.domain}:{int(self.version[:10])}:{int(self.version[10:])}"

    @classmethod
    def parse(cls, text: str) -> VersionToken:
        """Read ``str(token)``.

        Raises:
            UsageError: the text is not one.
        """
        domain, _, rest = text.partition(":")
        epoch, _, position = rest.partition(":")
        if not (epoch.isdecimal() and position.isdecimal()):
            raise UsageError(f"{text!r} is no version token: pass what str() of a token gave, such as 'log:1:42'")
        return cls(check_domain(domain), log_version(int(epoch), int(position)))
