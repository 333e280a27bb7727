"""The codec: Python values to and from the wire format, with every failure told apart.

fastavro encodes and decodes; this module frames, resolves versions of a schema, checks what fastavro lets through, and
translates every error at one border. A decoder raises three errors and no other:

- ``NotDecodable``: the bytes are not the wire format, not what their schema says, or of an unknown schema;
- ``SchemaMismatch``: the bytes are sound, but this reader cannot take them;
- ``RegistryUnavailable``: the schema is not at hand and the registry does not answer; nothing is known of the record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any, Final, Protocol, TypeVar, overload

import fastavro
import msgspec
from fastavro import schemaless_reader, schemaless_writer
from msgspec import convert, to_builtins

from headwater_schemas.catalogue import Catalogue, Schema
from headwater_schemas.compiled_reader import Reader, compile_reader
from headwater_schemas.compiled_writer import compile_writer
from headwater_schemas.errors import InvalidValue, NotDecodable, SchemaMismatch
from headwater_schemas.offender import offender
from headwater_schemas.registry import Registry, SchemaRegistry
from headwater_schemas.settings import Environment
from headwater_schemas.soundness import unsound
from headwater_schemas.value_types import NATIVE, value_type
from headwater_schemas.wire import PREFIX_BYTES, frame, schema_id_of, subject_of

__all__ = ["Codec", "Decoder", "Encoder", "TypedDecoder"]

Encoder = Callable[[Mapping[str, Any] | msgspec.Struct], bytes]
Decoder = Callable[[bytes | None], Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class TypedDecoder(Protocol[T_co]):
    """A decoder that gives instances of a type, and ``None`` for a tombstone only."""

    @overload
    def __call__(self, value: bytes, /) -> T_co: ...
    @overload
    def __call__(self, value: None, /) -> None: ...
    @overload
    def __call__(self, value: bytes | None, /) -> T_co | None: ...


class Codec:
    """Encoders and decoders for the topics of a catalogue; safe to share between threads.

    Args:
        catalogue: where topics and schemas are declared.
        registry: gives ids for schemas and schemas for ids.
        auto_register: whether an encoder may register its schema; otherwise it must have been registered before.
    """

    def __init__(self, catalogue: Catalogue, registry: SchemaRegistry, *, auto_register: bool = True) -> None:
        self.catalogue = catalogue
        self.registry = registry
        self._auto_register = auto_register
        self._encoders: dict[str, Encoder] = {}
        self._at_hand: set[bytes] = set()

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Codec:
        """The codec of the catalogue and the registry that the ``HEADWATER_*`` settings name.

        Raises:
            SettingError: a setting is malformed.
            UsageError: a contract folder is wrong.
        """
        env = env or Environment()
        register = env.flag("HEADWATER_REGISTRY_AUTO_REGISTER")
        return cls(Catalogue.from_env(env), Registry.from_env(env), auto_register=register)

    def encoder(self, topic: str) -> Encoder:
        """The encoder of a topic's values. Blocks for one registry request at a topic's first use, then cached.

        The encoder takes a mapping or a msgspec struct and gives the framed bytes; it never blocks. A field that is
        missing and has no default, a field that the schema does not have, and a value of another type raise
        ``InvalidValue``, whose ``field`` is the dotted path.

        Raises:
            UnknownTopic: the topic is not in the catalogue.
            UnknownSchema: its schema is not registered (with ``auto_register=False``).
            IncompatibleSchema: the registry refuses the schema.
            RegistryUnavailable: the registry does not answer.
        """
        encoder = self._encoders.get(topic)
        if encoder is None:
            schema = self._reader_schema(topic)
            ask = self.registry.register if self._auto_register else self.registry.lookup
            encoder = self._encoders[topic] = _encoder(ask(subject_of(topic), schema), schema)
        return encoder

    def from_json(self, topic: str, document: Any) -> dict[str, Any]:
        """A value for ``encoder(topic)`` from parsed JSON: dates and times as ISO 8601, bytes as base64, decimals and
        uuids as text. Never blocks.

        Raises:
            UnknownTopic: the topic is not in the catalogue.
            InvalidValue: the document does not match the schema; names the field.
        """
        schema = self._reader_schema(topic)
        try:
            checked = convert(document, value_type(schema))
        except msgspec.ValidationError as exc:
            raise _mistyped(schema, exc) from exc
        record: dict[str, Any] = to_builtins(checked, builtin_types=NATIVE)
        return record

    @overload
    def decoder(self, reader: str | Schema | None = None, type: None = None) -> Decoder: ...
    @overload
    def decoder(self, reader: str | Schema | None, type: type[T]) -> TypedDecoder[T]: ...
    @overload
    def decoder(self, reader: str | Schema | None = None, *, type: type[T]) -> TypedDecoder[T]: ...

    def decoder(self, reader: str | Schema | None = None, type: type[Any] | None = None) -> Decoder:  # noqa: A002
        """A decoder of framed values. Keep it: it remembers how to read each schema id.

        The decoder gives ``None`` for ``None`` (a tombstone), else a dict, or an instance of ``type``. It asks the
        registry, blocking, when a schema id is new; ``missing_schema`` and ``prefetch`` keep that off an event loop.

        Args:
            reader: a topic or a record schema: values written with another version are resolved to it by Avro's
                rules. ``None`` reads each value as it was written.
            type: a msgspec struct (or whatever else ``msgspec.convert`` takes) that the value is made into.

        Raises:
            UnknownTopic: ``reader`` is a topic that is not in the catalogue.
        """
        return _decoder(self.registry, self._reader_schema(reader) if isinstance(reader, str) else reader, type)

    def missing_schema(self, value: bytes | None) -> int | None:
        """The schema id that decoding ``value`` would have to fetch; ``None`` when nothing needs fetching.

        Never blocks, never raises: a value that is not the wire format needs no schema.
        """
        if value is None or value[:PREFIX_BYTES] in self._at_hand:
            return None
        try:
            schema_id = schema_id_of(value)
        except NotDecodable:
            return None
        registry = self.registry
        if registry.cached(schema_id) is not None:
            self._at_hand.add(value[:PREFIX_BYTES])
            return None
        return None if registry.unknown(schema_id) else schema_id

    async def prefetch(self, ids: Iterable[int]) -> None:
        """Fetch the schemas of ``ids`` off the event loop; afterwards decoding their records does not block.

        Raises:
            RegistryUnavailable: the registry does not answer: decode nothing of these ids, wait and try again.
        """
        await self.registry.prefetch(ids)

    def close(self) -> None:
        """Let go of the registry's connections. Encoders and decoders of known schemas go on working."""
        self.registry.close()

    def _reader_schema(self, topic: str) -> Schema:
        return self.catalogue.schema(self.catalogue.topic(topic).schema)


def _encoder(schema_id: int, schema: Schema) -> Encoder:
    checked = value_type(schema)
    prefix = frame(schema_id, b"")
    exact = _exact_encoder(prefix, schema, checked)
    write = compile_writer(schema)
    if write is None:
        return exact

    def encode(value: Mapping[str, Any] | msgspec.Struct) -> bytes:
        try:
            return prefix + write(convert(value if value.__class__ is dict else _as_mapping(value), checked))
        except Exception:  # whatever it was, fastavro encodes the value, or we learn what is wrong with it
            return exact(value)

    return encode


def _exact_encoder(prefix: bytes, schema: Schema, checked: Any) -> Encoder:
    """Takes every schema and says what is wrong with a value; the compiled one is faster."""
    parsed = fastavro.parse_schema(schema)

    def encode(value: Mapping[str, Any] | msgspec.Struct) -> bytes:
        record = value if value.__class__ is dict else _as_mapping(value)
        # A buffer of its own costs less than guarding a shared one against other threads.
        buffer = BytesIO()
        try:
            convert(record, checked)
            schemaless_writer(buffer, parsed, record)
        except Exception as exc:  # fastavro raises whatever the value at hand happens to raise
            raise _invalid(schema, checked, record, exc) from exc
        return prefix + buffer.getvalue()

    return encode


def _as_mapping(value: Any) -> Any:
    return to_builtins(value, builtin_types=NATIVE) if isinstance(value, msgspec.Struct) else value


_PATH: Final = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_ENUM: Final = re.compile(r"Invalid enum value .*", re.DOTALL)
_ADDRESS: Final = re.compile(r" from <_io\.BytesIO object at 0x[0-9a-f]+>")
_NAMED: Final = re.compile(r"Object (?:missing required|contains unknown) field `(?P<name>[^`]*)`")


def _invalid(schema: Schema, checked: Any, record: Any, exc: Exception) -> InvalidValue:
    """What is wrong, where. The value itself is not quoted: errors end up in logs, and values may be personal."""
    if isinstance(exc, msgspec.ValidationError):
        return _mistyped(schema, exc)
    found = offender(schema, record)
    if found is None:
        return _at(schema, None, f"cannot be encoded ({type(exc).__name__})")
    field, why = found
    try:
        convert(record, checked, builtin_types=NATIVE)
    except msgspec.ValidationError as strict:
        # Text in place of a date or a decimal; the check says it better than fastavro.
        mistyped = _mistyped(schema, strict)
        if mistyped.field == field:
            return mistyped
    except (ValueError, ArithmeticError):
        # A lone surrogate where a date should be, a signalling NaN for a double: msgspec cannot even look at it.
        return _at(schema, field, why)
    return _at(schema, field, why)


def _mistyped(schema: Schema, exc: msgspec.ValidationError) -> InvalidValue:
    match = _PATH.fullmatch(str(exc))
    if match is None:
        return _at(schema, None, str(exc))
    named = _NAMED.fullmatch(match["what"])
    parts = (match["path"], named["name"] if named else None)
    what = _ENUM.sub("not a symbol of the enum", match["what"])
    return _at(schema, ".".join(part for part in parts if part) or None, what)


def _at(schema: Schema, field: str | None, message: str) -> InvalidValue:
    return InvalidValue(f"{schema['name']}{'.' + field if field else ''}: {message}", field=field)


def _decoder(registry: SchemaRegistry, reader: Schema | None, type_: Any) -> Decoder:
    plans: dict[bytes, _Plan] = {}

    def decode(value: bytes | None) -> Any:
        if value is None:
            return None
        plan = plans.get(value[:PREFIX_BYTES])
        if plan is None:
            plan = plans[value[:PREFIX_BYTES]] = _plan(registry, schema_id_of(value), reader)
        try:
            record, end = plan.read(value, PREFIX_BYTES)
        except Exception:  # whatever it was, fastavro reads the value, or we learn what is wrong with it
            end = -1
        if end != len(value):
            record = plan.exactly(value)
        if type_ is None:
            return record
        try:
            return convert(record, type_)
        except msgspec.ValidationError as exc:
            raise SchemaMismatch(f"the value does not fit {type_.__name__}: {exc}") from exc

    return decode


class _Plan:
    """How to read values of one schema id.

    Args:
        writer: the schema they were written with.
        reader: the schema to resolve them to, or ``None`` to read them as written.
    """

    __slots__ = ("_reader", "_writer", "read")

    def __init__(self, writer: Any, reader: Any) -> None:
        self._writer = writer
        self._reader = reader
        self.read: Reader = (compile_reader(writer) if reader is None else None) or _unread

    def exactly(self, value: bytes) -> Any:
        """Takes every schema and says what is wrong with a value; the compiled function is faster."""
        buffer = BytesIO(value)
        buffer.seek(PREFIX_BYTES)
        try:
            record = schemaless_reader(buffer, self._writer, self._reader)
        except Exception as exc:  # fastavro raises whatever the bytes at hand happen to cause
            raise self._unreadable(value, exc) from exc
        if buffer.tell() != len(value):
            raise NotDecodable(f"{len(value) - buffer.tell()} bytes are left over behind the value")
        return record

    def _unreadable(self, value: bytes, exc: Exception) -> NotDecodable | SchemaMismatch:
        """Whose fault it is: sound bytes can be read by the schema they were written with."""
        if self._reader is not None:
            buffer = BytesIO(value)
            buffer.seek(PREFIX_BYTES)
            try:
                schemaless_reader(buffer, self._writer, None)
            except Exception:  # the bytes are at fault; the caller keeps the first error as the cause
                return NotDecodable(f"the bytes are not what their schema says: {_said(exc)}")
            if buffer.tell() == len(value):
                return SchemaMismatch(f"this reader's schema cannot resolve the writer's: {exc}")
        return NotDecodable(f"the bytes are not what their schema says: {_said(exc)}")


def _said(exc: Exception) -> str:
    """Without the address of our buffer in memory: the same fault has the same words."""
    return _ADDRESS.sub("", repr(exc))


def _unread(_value: bytes, _at: int) -> tuple[Any, int]:
    return None, -1


def _plan(registry: SchemaRegistry, schema_id: int, reader: Schema | None) -> _Plan:
    """How to read values of this id: with the writer's schema, and the reader's when they differ."""
    writer = registry.schema(schema_id)
    try:
        parsed = fastavro.parse_schema(writer)
        problem = unsound(writer)
    except Exception as exc:  # whatever a schema that is not Avro, or refers to another subject's, happens to cause
        raise SchemaMismatch(f"schema id {schema_id} is not a schema that can be read: {exc!r}") from exc
    if problem is not None:
        raise SchemaMismatch(f"schema id {schema_id} cannot be read safely: {problem}")
    if reader is None:
        return _Plan(parsed, None)
    if _shape(reader) == _shape(writer):
        return _Plan(fastavro.parse_schema(reader), None)
    return _Plan(parsed, fastavro.parse_schema(reader))


_NOT_SHAPE: Final = frozenset({"doc", "aliases", "order", "default"})


def _shape(schema: Any) -> Any:
    """What matters to reading values written with the very same schema."""
    if isinstance(schema, list):
        return [_shape(part) for part in schema]
    if isinstance(schema, dict):
        return {key: _shape(part) for key, part in schema.items() if key not in _NOT_SHAPE}
    return schema
