"""The shapes in which changes arrive."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from headwater_cache import Change, MsgpackValues, Position, log_version, version
from headwater_cache.events import ChangeDecoder
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import NotDecodable
from headwater_schemas.registry import LocalRegistry

AT = Position("flights.changes", 2, 41)
ROW = {"id": 7, "status": "DEPARTED"}
PAYLOAD = MsgpackValues[Any]().encode(ROW)[1]
CODEC = Codec(Catalogue.load(), LocalRegistry())


def decoder(epoch: int | None = None) -> ChangeDecoder:
    return ChangeDecoder(MsgpackValues[Any](), CODEC.decoder(), epoch=epoch)


def json(value: object) -> bytes:
    return msgspec.json.encode(value)


def test_a_change_event_keeps_its_payload() -> None:
    """Nothing is decoded and encoded again."""
    event = {
        "entity": "flight", "key": "UA1", "version": 9, "op": "UPSERT", "schema_id": 3, "value": b"\x01",
        "source": "test", "occurred_at": datetime(2013, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    framed = CODEC.encoder("task.changes")(event)

    assert decoder().decode(b"UA1", framed, AT) == Change("UA1", version(9), b"\x01", 3, AT, 1356998400.0)
    view = decoder(epoch=1).decode(b"UA1", framed, AT)
    assert view is not None
    assert view.version == log_version(1, 41)


@pytest.mark.parametrize("wrap", [lambda record: record, lambda record: {"schema": {}, "payload": record}])
def test_a_debezium_envelope_is_read(wrap: Any) -> None:
    """With and without its schema; the LSN is the version."""
    source = {"lsn": 123, "ts_ms": 5000}
    for op in ("c", "u", "r"):
        record = wrap({"before": None, "after": ROW, "op": op, "source": source, "ts_ms": 9000})
        change = decoder().decode(json(wrap({"id": 7})), json(record), AT)
        assert change == Change("7", version(123), PAYLOAD, 0, AT, 5.0)
    deleted = wrap({"before": ROW, "after": None, "op": "d", "source": source})
    assert decoder().decode(json(wrap({"id": 7})), json(deleted), AT) == Change("7", version(123), None, 0, AT, 5.0)
    assert decoder().decode(None, json(wrap({"before": None, "after": None, "op": "t", "source": source})), AT) is None


def test_an_avro_envelope_is_read_like_a_json_one() -> None:
    """Key and value."""
    row = {
        "type": "record",
        "name": "Row",
        "fields": [{"name": "id", "type": "int"}, {"name": "status", "type": "string"}],
    }
    source = {"type": "record", "name": "Source", "fields": [{"name": "lsn", "type": "long"}]}
    envelope = {
        "type": "record", "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Row"], "default": None},
            {"name": "op", "type": "string"},
            {"name": "source", "type": source},
        ],
    }  # fmt: skip
    codec = Codec(Catalogue.of(topics=[TopicSpec("rows", "Envelope")], schemas=[envelope]), LocalRegistry())
    framed = codec.encoder("rows")({"before": None, "after": ROW, "op": "c", "source": {"lsn": 5}})

    change = ChangeDecoder(MsgpackValues[Any](), codec.decoder(), epoch=None).decode(b"7", framed, AT)

    assert change == Change("7", version(5), PAYLOAD, 0, AT)


def test_a_flat_record_is_read() -> None:
    """As ExtractNewRecordState makes it."""
    flat = {**ROW, "__op": "u", "__deleted": "false", "__lsn": 8, "__source_ts_ms": 4000}
    gone = {**flat, "__deleted": "true"}

    assert decoder().decode(b"7", json(flat), AT) == Change("7", version(8), PAYLOAD, 0, AT, 4.0)
    assert decoder().decode(b"7", json(gone), AT) == Change("7", version(8), None, 0, AT, 4.0)


def test_a_tombstone_is_a_delete_of_a_view_and_nothing_new_elsewhere() -> None:
    """Compaction may have left only the tombstone; in cache mode the delete itself came before, with a version."""
    assert decoder(epoch=1).decode(b"UA1", None, AT) == Change("UA1", log_version(1, 41), None, 0, AT)
    assert decoder().decode(b"UA1", None, AT) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"7", b"\x07\x07", "neither framed Avro nor JSON"),
        (b"7", b"[]", "a record"),
        (b"7", b'{"a":1}', "its fields are a"),
        (None, json({"op": "c", "after": ROW, "source": {"lsn": 1}}), "needs a key"),
        (b"7", json({"op": "c", "after": ROW, "source": {}}), "no version"),
        (b"7", json({"op": "c", "after": ROW, "source": {"lsn": "x"}}), "no version"),
        (b"\xff", json({"op": "c", "after": ROW, "source": {"lsn": 1}}), "not text"),
    ],
)
def test_what_can_not_be_read_says_why(key: bytes | None, value: bytes, message: str) -> None:
    """It is dead-lettered with that reason."""
    with pytest.raises(NotDecodable, match=message):
        decoder().decode(key, value, AT)
