"""A topic as a sender sees it: how to encode its values, which keys it takes, and the header that never changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import UsageError
from headwater_schemas.wire import CE_TYPE

__all__ = ["Contract"]


class Contract:
    """What a topic's events must be. Making one blocks for one registry request at the topic's first use.

    Raises:
        IncompatibleSchema: the registry refuses the schema.
        RegistryUnavailable: it does not answer.
    """

    __slots__ = ("ce_type", "compacted", "encode", "topic")

    def __init__(self, spec: TopicSpec, codec: Codec) -> None:
        self.topic = spec.name
        self.encode = codec.encoder(spec.name)
        self.compacted = "compact" in spec.cleanup
        self.ce_type = (CE_TYPE, spec.name)

    def key_bytes(self, key: str | bytes | None) -> bytes | None:
        """The key as it stands on the log.

        Raises:
            UsageError: it is no text or bytes, or the topic needs one.
        """
        if isinstance(key, str):
            try:
                return key.encode()
            except UnicodeEncodeError as exc:
                raise UsageError(f"key={key!r} has no UTF-8 form (a lone surrogate)") from exc
        if key is None and self.compacted:
            raise UsageError(f"{self.topic!r} is compacted and keeps the newest value of each key: pass key=")
        if key is None or isinstance(key, bytes):
            return key
        raise UsageError(f"key={key!r} must be a str or bytes: pass e.g. str(key)")

    def payload(self, value: Mapping[str, Any] | msgspec.Struct | None) -> bytes | None:
        """The value as it stands on the log.

        Raises:
            InvalidValue: it does not match the schema.
            UsageError: a tombstone for a topic that is not compacted.
        """
        if value is not None:
            return self.encode(value)
        if not self.compacted:
            raise UsageError(f"value=None is a tombstone, and {self.topic!r} is not compacted: pass a value")
        return None
