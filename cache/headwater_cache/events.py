"""One decoder for the shapes in which changes arrive: our ChangeEvent, Debezium envelopes (JSON, Avro), flat records.

A Debezium record is told by its fields: an envelope has ``op`` and ``after``; a flat one, as the ExtractNewRecordState
transform makes it, has ``__op`` or ``__deleted`` (set its ``add.fields`` to ``op,lsn,source.ts_ms``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from headwater_cache.changes import Change, Position
from headwater_cache.values import ValueCodec
from headwater_cache.versions import Version, log_version, version
from headwater_schemas.codec import Decoder
from headwater_schemas.errors import HeadwaterError, NotDecodable

__all__ = ["ChangeDecoder", "business_key"]

Row = Mapping[str, Any]
_NO_ROW = ("t", "m")  # truncate, message: they concern no key


def business_key(key: Any) -> str:
    """The default key: text as it is, the fields of a structured key joined by ``:`` in their order.

    Raises:
        NotDecodable: there is no key.
    """
    if isinstance(key, Mapping):
        key = key.get("payload", key)
    if isinstance(key, Mapping) and key:
        return ":".join(str(part) for part in key.values())
    if isinstance(key, str | int) and key != "":
        return str(key)
    raise NotDecodable(f"a change event needs a key; this one has {key!r}")


class ChangeDecoder:
    """Makes ``Change`` objects of Kafka records.

    Args:
        values: encodes rows of Debezium as the cache stores values; a ChangeEvent carries its payload ready.
        avro: decodes framed Avro, such as ``codec.decoder()``.
        epoch: view mode: the epoch of the topic, and a change's version is (epoch, offset). ``None``: the events carry
            versions of the source (Debezium: the LSN).
        key: business key of a decoded record key.
        source_version: version in the ``source`` block of an envelope, or in a flat record; the LSN by default.
    """

    def __init__(
        self,
        values: ValueCodec[Any],
        avro: Decoder,
        *,
        epoch: int | None,
        key: Callable[[Any], str] = business_key,
        source_version: Callable[[Row], Any] | None = None,
    ) -> None:
        self._values = values
        self._avro = avro
        self._epoch = epoch
        self._key = key
        self._source_version = source_version or _lsn

    @property
    def epoch(self) -> int | None:
        """The epoch of the topic; ``None``: the events carry versions of the source."""
        return self._epoch

    def decode(self, key: bytes | None, value: bytes | None, position: Position) -> Change | None:
        """The change in a record; ``None`` for one that changes no key.

        Raises:
            NotDecodable, SchemaMismatch: it will never be readable. Fence its key before it is parked.
            RegistryUnavailable: wait and decode again.
        """
        return self.change(key, self.record(value), position)

    def record(self, value: bytes | None) -> Row | None:
        """The first half of ``decode``: the record in a value, ``None`` for a tombstone. Raises as it does."""
        if value is None:
            return None
        record = self._parsed(value)
        if not isinstance(record, Mapping):
            raise NotDecodable(f"a change event is a record, not {type(record).__name__}")
        return record

    def key_of(self, key: bytes | None) -> str:
        """The business key of a record key.

        Raises:
            NotDecodable, SchemaMismatch: there is none in it.
        """
        return self._key(self._parsed_key(key) if key is not None else None)

    def change(self, key: bytes | None, record: Row | None, position: Position) -> Change | None:
        """The second half of ``decode``: the change that ``record`` tells of. Raises as it does."""
        if record is None:
            return self._tombstone(key, position)
        if {"entity", "key", "op"} <= record.keys():
            return self._change_event(record, position)
        record = record.get("payload", record) if "schema" in record else record
        if "op" in record and ("after" in record or "before" in record):
            return self._envelope(key, record, position)
        if "__op" in record or "__deleted" in record:
            return self._flat(key, record, position)
        raise NotDecodable(f"neither a ChangeEvent nor a Debezium record; its fields are {', '.join(map(str, record))}")

    def _tombstone(self, key: bytes | None, position: Position) -> Change | None:
        """In a view it may be all that compaction has left of a delete; else the delete itself came before."""
        if self._epoch is None or key is None:
            return None
        return Change(self.key_of(key), log_version(self._epoch, position.offset), None, 0, position)

    def _change_event(self, event: Row, position: Position) -> Change:
        value = event["value"] if event["op"] == "UPSERT" else None
        of = self._version(event["version"], position)
        return Change(event["key"], of, value, event["schema_id"] or 0, position, _seconds(event["occurred_at"]))

    def _envelope(self, key: bytes | None, record: Row, position: Position) -> Change | None:
        if record["op"] in _NO_ROW:
            return None
        source = record.get("source") or {}
        row = None if record["op"] == "d" else record["after"]
        stamp = source.get("ts_ms") or record.get("ts_ms")
        return self._row(key, row, self._source_version(source), stamp, position)

    def _flat(self, key: bytes | None, record: Row, position: Position) -> Change:
        deleted = str(record.get("__deleted", "")).lower() == "true" or record.get("__op") == "d"
        row = None if deleted else {name: value for name, value in record.items() if not name.startswith("__")}
        meta = {name.removeprefix("__").removeprefix("source_"): value for name, value in record.items()}
        return self._row(key, row, self._source_version(meta), meta.get("ts_ms"), position)

    def _row(self, key: bytes | None, row: Row | None, of: Any, stamp: Any, position: Position) -> Change:
        schema_id, payload = (0, None) if row is None else self._values.encode(row)
        return Change(self.key_of(key), self._version(of, position), payload, schema_id, position, _seconds(stamp))

    def _version(self, of: Any, position: Position) -> Version:
        if self._epoch is not None:
            return log_version(self._epoch, position.offset)
        if isinstance(of, bool) or not isinstance(of, int | str):
            raise NotDecodable(f"the change has no version ({of!r}): let the connector add lsn, or pass source_version")
        try:
            return version(int(of) if isinstance(of, str) and of.isdecimal() else of)
        except HeadwaterError as exc:
            raise NotDecodable(str(exc)) from exc

    def _parsed(self, data: bytes) -> Any:
        if data[:1] == b"\0":
            return self._avro(data)
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as exc:
            raise NotDecodable(f"neither framed Avro nor JSON: it begins with {data[:8].hex()}") from exc

    def _parsed_key(self, key: bytes) -> Any:
        """Framed Avro, JSON, or plain text."""
        if key[:1] == b"\0":
            return self._avro(key)
        if key[:1] in b'{"':
            return self._parsed(key)
        try:
            return key.decode()
        except UnicodeDecodeError as exc:
            raise NotDecodable(f"the key is not text: {key[:8].hex()}") from exc


def _lsn(meta: Row) -> Any:
    return meta.get("lsn")


def _seconds(stamp: Any) -> float:
    """Of ms since the epoch, or of a datetime; 0 = unknown."""
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    return stamp / 1000 if isinstance(stamp, int | float) else 0.0
