"""How values become bytes: msgpack by default, Avro through a codec. Never pickle: reading an entry runs no code."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

from headwater_schemas.codec import Decoder, Encoder
from headwater_schemas.errors import InvalidValue, SchemaMismatch
from headwater_schemas.wire import PREFIX_BYTES, frame, schema_id_of

__all__ = ["AvroValues", "MsgpackValues", "ValueCodec"]

V = TypeVar("V")


class ValueCodec(Protocol[V]):
    """Both directions of one value type. Neither may block on the network once its schema is known."""

    def encode(self, value: V) -> tuple[int, bytes]:
        """``(schema_id, payload)``; 0 = no schema.

        Raises:
            InvalidValue: the value can not be encoded; the message names the field.
        """
        ...

    def decode(self, schema_id: int, payload: bytes) -> V:
        """The value.

        Raises:
            BadRecord: the payload does not fit its schema.
        """
        ...


class MsgpackValues(Generic[V]):
    """msgpack through msgspec. ``of``: a msgspec Struct, dataclass or TypedDict, checked when read; else plain data."""

    def __init__(self, of: type[V] | Any = Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(of)

    def encode(self, value: V) -> tuple[int, bytes]:
        try:
            return 0, self._encoder.encode(value)
        except (TypeError, OverflowError, msgspec.MsgspecError) as exc:
            raise InvalidValue(f"the value can not be cached as msgpack: {exc}") from exc

    def decode(self, schema_id: int, payload: bytes) -> V:
        try:
            value: V = self._decoder.decode(payload)
        except msgspec.DecodeError as exc:
            raise SchemaMismatch(
                f"the cached payload (schema {schema_id}) does not fit the reader's type: {exc}"
            ) from exc
        return value


class AvroValues:
    """Avro, through a framing encoder and decoder such as ``headwater_schemas.Codec`` makes.

    The entry keeps the schema id and the bare payload, exactly as a ChangeEvent carries them, so the event path stores
    values without decoding them.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._ids: dict[bytes, int] = {}
        self._prefixes: dict[int, bytes] = {}

    def encode(self, value: Any) -> tuple[int, bytes]:
        framed = self._encoder(value)
        prefix = framed[:PREFIX_BYTES]
        schema_id = self._ids.get(prefix)
        if schema_id is None:
            schema_id = self._ids[prefix] = schema_id_of(framed)
        return schema_id, framed[PREFIX_BYTES:]

    def decode(self, schema_id: int, payload: bytes) -> Any:
        prefix = self._prefixes.get(schema_id)
        if prefix is None:
            prefix = self._prefixes[schema_id] = frame(schema_id, b"")
        return self._decoder(prefix + payload)
