from __future__ import annotations

import copy
import datetime
import decimal
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from io import BytesIO
from types import MappingProxyType
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import (
    InvalidValue,
    NotDecodable,
    RegistryUnavailable,
    SchemaMismatch,
    UnknownSchema,
    UnknownTopic,
)
from headwater_schemas.registry import LocalRegistry
from schemas.samples import ORDER, TOPIC, catalogue, codec, order
from schemas.strategies import Sample, samples

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["f0", "f1"]), inner, max_size=3)
    ),
    max_leaves=6,
)


FLOAT = {"type": "record", "name": "Read", "fields": [{"name": "celsius", "type": "float"}]}


class State(StrEnum):
    NEW = "NEW"
    PAID = "PAID"


class Line(msgspec.Struct):
    sku: str
    count: int = 1
    class_: str | None = msgspec.field(name="class", default=None)


class OrderPlaced(msgspec.Struct):
    order_id: str
    placed_at: datetime.datetime
    quantity: int
    express: bool
    total: decimal.Decimal
    customer: uuid.UUID
    deliver_on: datetime.date | None = None
    state: State = State.NEW
    lines: list[Line] = []
    labels: dict[str, str] = {}


def variant(**fields: dict[str, Any] | None) -> dict[str, Any]:
    """The order's schema with fields changed, added, or (``None``) taken away."""
    schema = copy.deepcopy(ORDER)
    known = {field["name"]: field for field in schema["fields"]}
    for name, change in fields.items():
        if change is None:
            known.pop(name)
        else:
            known[name] = {"name": name} | known.get(name, {}) | change
    schema["fields"] = list(known.values())
    return schema


def offending_field(subject: Codec, value: dict[str, Any]) -> str | None:
    """The field that the encoder blames; ``None`` when it takes the value, which must then be readable."""
    try:
        encoded = subject.encoder(TOPIC)(value)
    except InvalidValue as exc:
        return exc.field or "nothing"
    subject.decoder(TOPIC)(encoded)
    return None


class TestEncoding:
    def test_a_value_comes_back_as_it_was(self) -> None:
        subject = codec()

        assert subject.decoder(TOPIC)(subject.encoder(TOPIC)(order())) == order()

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_fastavro_reads_what_we_write_and_we_read_what_it_writes(self, data: st.DataObject) -> None:
        sample: Sample = data.draw(samples())
        value = data.draw(sample.values)
        subject = Codec(catalogue(sample.schema), LocalRegistry())

        ours = subject.encoder(TOPIC)(value)
        buffer = BytesIO()
        fastavro.schemaless_writer(buffer, sample.schema, value)

        assert ours == b"\0\0\0\0\1" + buffer.getvalue()
        assert fastavro.schemaless_reader(BytesIO(ours[5:]), sample.schema, None) == value
        assert subject.decoder(TOPIC)(ours) == value

    def test_fields_with_defaults_may_be_left_out(self) -> None:
        subject = codec()
        full = order(lines=[{"sku": "tea"}])
        for name in ("deliver_on", "state", "labels"):
            del full[name]

        decoded = subject.decoder(TOPIC)(subject.encoder(TOPIC)(full))

        assert decoded == order(
            deliver_on=None, state="NEW", labels={}, lines=[{"sku": "tea", "count": 1, "class": None}]
        )

    def test_a_struct_encodes_as_its_dict_does(self) -> None:
        encode = codec().encoder(TOPIC)
        struct = msgspec.convert(order(), OrderPlaced)

        assert encode(struct) == encode(order())

    def test_any_mapping_will_do(self) -> None:
        encode = codec().encoder(TOPIC)

        assert encode(MappingProxyType(order())) == encode(order())

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"quantity": "3"}, "quantity", "Expected `int`, got `str`"),
            ({"quantity": 3.7}, "quantity", "Expected `int`, got `float`"),
            ({"quantity": True}, "quantity", "Expected `int`, got `bool`"),
            ({"quantity": None}, "quantity", "Expected `int`, got `null`"),
            ({"quantity": 2**31}, "quantity", "Expected `int` <= 2147483647"),
            ({"express": "no"}, "express", "Expected `bool`, got `str`"),
            ({"express": 0}, "express", "Expected `bool`, got `int`"),
            ({"placed_at": "2026-05-04T03:02:01Z"}, "placed_at", "Expected `datetime`, got `str`"),
            ({"placed_at": datetime.datetime(2026, 5, 4)}, "placed_at", "with a timezone"),
            ({"customer": "5b3a8a58"}, "customer", "Invalid UUID"),
            ({"state": "LOST"}, "state", "not a symbol of the enum"),
            ({"state": "\n"}, "state", "not a symbol of the enum"),
            ({"total": 20}, "total", "Expected `decimal`, got `int`"),
            ({"total": decimal.Decimal("1.234")}, "total", "Scale provided in schema"),
            ({"labels": {"a": "\ud800"}}, "labels[...]", "surrogates not allowed"),
            ({"lines": [{"sku": "tea"}, {"sku": "\ud800"}]}, "lines[1].sku", "surrogates not allowed"),
            ({"lines": [{"sku": "tea"}, {"sku": 5}]}, "lines[1].sku", "Expected `str`, got `int`"),
            ({"lines": [{"count": 5}]}, "lines[0].sku", "missing required field `sku`"),
            ({"lines": [{"sku": "tea", "cuont": 5}]}, "lines[0].cuont", "unknown field `cuont`"),
            ({"labels": {"a": 1}}, "labels[...]", "Expected `str`, got `int`"),
            ({"ordre_id": "o-1"}, "ordre_id", "unknown field `ordre_id`"),
        ],
    )
    def test_an_invalid_value_names_its_field(self, changes: dict[str, Any], field: str, message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            codec().encoder(TOPIC)(order(**changes))

        assert caught.value.field == field
        assert str(caught.value).startswith(f"OrderPlaced.{field}: ")
        assert message in str(caught.value)

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_whatever_is_put_into_a_field_is_encoded_or_blamed_on_that_field(self, data: st.DataObject) -> None:
        sample: Sample = data.draw(samples())
        value = data.draw(sample.values)
        name = data.draw(st.sampled_from(sorted(value)))
        value[name] = data.draw(ANYTHING)
        subject = Codec(catalogue(sample.schema), LocalRegistry())

        blamed = offending_field(subject, value)

        assert blamed is None or blamed.startswith(name)

    def test_a_missing_field_is_named(self) -> None:
        value = order()
        del value["total"]

        with pytest.raises(InvalidValue, match=r"OrderPlaced\.total: .*missing") as caught:
            codec().encoder(TOPIC)(value)

        assert caught.value.field == "total"

    @pytest.mark.parametrize("total", ["1.234", "12345678901.20", "NaN"])
    def test_a_decimal_that_does_not_fit_is_invalid(self, total: str) -> None:
        with pytest.raises(InvalidValue):
            codec().encoder(TOPIC)(order(total=decimal.Decimal(total)))

    @pytest.mark.parametrize("value", [None, [], "text", 5, object(), [("order_id", "o-1")]])
    def test_what_is_no_record_is_invalid(self, value: Any) -> None:
        with pytest.raises(InvalidValue, match="OrderPlaced"):
            codec().encoder(TOPIC)(value)

    def test_a_struct_that_lies_about_its_types_is_invalid(self) -> None:
        struct = msgspec.convert(order(), OrderPlaced)
        struct.quantity = "many"  # type: ignore[assignment]  # structs are not checked at run time

        with pytest.raises(InvalidValue) as caught:
            codec().encoder(TOPIC)(struct)

        assert caught.value.field == "quantity"

    @pytest.mark.parametrize("name", [field["name"] for field in ORDER["fields"]])
    @pytest.mark.parametrize("value", ["jane@example.org\ud800", ["jane"], {"jane": "\ud800"}])
    def test_the_value_is_not_quoted_in_the_error(self, name: str, value: Any) -> None:
        """Errors end up in logs; values may be personal."""
        with pytest.raises(InvalidValue) as caught:
            codec().encoder(TOPIC)(order(**{name: value}))

        assert "jane" not in str(caught.value)

    def test_text_in_place_of_a_uuid_or_a_date_is_taken_and_never_blamed(self) -> None:
        lenient = {"customer": "5b3a8a58-2c1d-4d6c-9d3e-6f1f0c1c9a11", "deliver_on": "2026-05-06"}
        encode = codec().encoder(TOPIC)

        assert encode(order(**lenient)) == encode(order())
        with pytest.raises(InvalidValue) as caught:
            encode(order(**lenient, total=decimal.Decimal("1.234")))
        assert caught.value.field == "total"

    def test_an_invalid_value_leaves_no_trace_in_the_next(self) -> None:
        encode = codec().encoder(TOPIC)
        clean = encode(order())
        with pytest.raises(InvalidValue):
            encode(order(labels={"a": "\ud800"}))

        assert encode(order()) == clean

    def test_a_union_of_records_is_checked_by_avro(self) -> None:
        def shape(name: str, field: str) -> dict[str, Any]:
            return {"type": "record", "name": name, "fields": [{"name": field, "type": "int"}]}

        drawn = {
            "type": "record",
            "name": "Drawn",
            "fields": [{"name": "shape", "type": [shape("Circle", "radius"), shape("Square", "side")]}],
        }
        subject = codec(drawn)
        encode, decode = subject.encoder(TOPIC), subject.decoder(TOPIC)

        assert decode(encode({"shape": {"side": 3}})) == {"shape": {"side": 3}}
        with pytest.raises(InvalidValue) as caught:
            encode({"shape": {"corner": 3}})
        assert str(caught.value) == "Drawn.shape: no type of the union takes a `dict`"

    def test_threads_share_an_encoder(self) -> None:
        encode = codec().encoder(TOPIC)
        values = [order(order_id=f"o-{n}", quantity=n) for n in range(200)]
        alone = [encode(value) for value in values]

        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                assert list(pool.map(encode, values)) == alone


class TestIds:
    def test_the_encoder_of_a_topic_is_made_once(self) -> None:
        registry = LocalRegistry()
        subject = codec(registry=registry)

        assert subject.encoder(TOPIC) is subject.encoder(TOPIC)
        assert registry.requests == 1

    def test_an_unknown_topic_has_neither(self) -> None:
        with pytest.raises(UnknownTopic):
            codec().encoder("orders.lost")
        with pytest.raises(UnknownTopic):
            codec().decoder("orders.lost")

    def test_without_the_right_to_register_an_unregistered_schema_is_an_error(self) -> None:
        registry = LocalRegistry()
        subject = Codec(catalogue(), registry, auto_register=False)

        with pytest.raises(UnknownSchema, match="headwater schemas register"):
            subject.encoder(TOPIC)

        registry.register(f"{TOPIC}-value", ORDER)
        assert subject.encoder(TOPIC)(order())[:5] == b"\0\0\0\0\1"

    def test_a_registry_that_is_down_at_first_use_is_asked_again(self) -> None:
        registry = LocalRegistry()
        subject = codec(registry=registry)
        registry.down = True
        with pytest.raises(RegistryUnavailable):
            subject.encoder(TOPIC)

        registry.down = False
        assert subject.encoder(TOPIC)(order())


class TestDecoding:
    def test_a_tombstone_stays_none(self) -> None:
        assert codec().decoder()(None) is None

    def test_without_a_reader_values_come_as_they_were_written(self) -> None:
        subject = codec()

        assert subject.decoder()(subject.encoder(TOPIC)(order())) == order()

    def test_a_type_gives_structs(self) -> None:
        subject = codec()

        decoded = subject.decoder(TOPIC, OrderPlaced)(subject.encoder(TOPIC)(order()))

        assert decoded == msgspec.convert(order(), OrderPlaced)
        assert isinstance(decoded, OrderPlaced)
        assert decoded.lines == [Line("tea", 2, "dry")]
        assert decoded.state is State.PAID

    def test_a_type_that_cannot_hold_the_value_is_a_mismatch(self) -> None:
        class Other(msgspec.Struct):
            order_id: int

        subject = codec()
        with pytest.raises(SchemaMismatch, match="does not fit Other: Expected `int`, got `str`"):
            subject.decoder(TOPIC, Other)(subject.encoder(TOPIC)(order()))

    @pytest.mark.parametrize(
        ("old", "expected"),
        [
            (variant(deliver_on=None), {"deliver_on": None}),
            (variant(note={"type": "string"}), {}),
            (variant(labels=None, lines=None), {"labels": {}, "lines": []}),
            (variant(order_id={"doc": "another doc"}), {}),
        ],
    )
    def test_another_version_is_resolved_to_the_readers(self, old: dict[str, Any], expected: dict[str, Any]) -> None:
        registry = LocalRegistry()
        names = {field["name"] for field in old["fields"]}
        written = {name: value for name, value in order(note="hi").items() if name in names}

        value = codec(old, registry).encoder(TOPIC)(written)

        assert codec(registry=registry).decoder(TOPIC)(value) == order(**expected)

    def test_an_alias_finds_the_old_name(self) -> None:
        registry = LocalRegistry()
        old = variant(order_id=None, number={"type": "string"})
        new = variant(order_id={"aliases": ["number"]})
        value = order(number="o-9")
        del value["order_id"]

        written = codec(old, registry).encoder(TOPIC)(value)

        assert codec(new, registry).decoder(TOPIC)(written) == order(order_id="o-9")

    @pytest.mark.parametrize(
        ("new", "value"),
        [
            (variant(note={"type": "string"}), order()),
            (variant(quantity={"type": "string"}), order()),
            (variant(state={"type": {"type": "enum", "name": "State", "symbols": ["NEW"]}, "default": "NEW"}), order()),
            (variant(deliver_on={"type": "null"}), order()),
        ],
    )
    def test_a_sound_value_that_the_reader_cannot_take_is_a_mismatch(
        self, new: dict[str, Any], value: dict[str, Any]
    ) -> None:
        registry = LocalRegistry()
        written = codec(registry=registry).encoder(TOPIC)(value)

        with pytest.raises(SchemaMismatch):
            codec(new, registry).decoder(TOPIC)(written)

    def test_broken_bytes_are_not_a_mismatch_even_for_another_version(self) -> None:
        registry = LocalRegistry()
        written = codec(registry=registry).encoder(TOPIC)(order())

        with pytest.raises(NotDecodable):
            codec(variant(note={"type": "string"}), registry).decoder(TOPIC)(written[:-1])

    def test_the_same_damage_is_told_in_the_same_words(self) -> None:
        """No address in memory: dead letters are grouped by what is said."""
        known = Catalogue.of(topics=[TopicSpec("temperatures", "Read")], schemas=[FLOAT])
        measured = Codec(known, LocalRegistry())
        written = measured.encoder("temperatures")({"celsius": 1.5})
        told = set()
        for value in (written[:-1], written[:-2]):
            with pytest.raises(NotDecodable) as refused:
                measured.decoder("temperatures")(value)
            told.add(str(refused.value))
        assert told == {"the bytes are not what their schema says: EOFError('cannot read float')"}

    def test_an_unknown_id_is_not_decodable(self) -> None:
        with pytest.raises(NotDecodable, match="does not know schema id 77"):
            codec().decoder(TOPIC)(b"\0\0\0\0\x4dabc")

    def test_a_registry_that_is_down_says_nothing_of_the_record(self) -> None:
        registry = LocalRegistry()
        written = codec(registry=registry).encoder(TOPIC)(order())
        registry.forget()
        registry.down = True
        decode = codec(registry=registry).decoder(TOPIC)

        with pytest.raises(RegistryUnavailable):
            decode(written)

        registry.down = False
        assert decode(written) == order()

    def test_a_known_id_is_read_while_the_registry_is_down(self) -> None:
        registry = LocalRegistry()
        subject = codec(registry=registry)
        written, decode = subject.encoder(TOPIC)(order()), subject.decoder(TOPIC)
        registry.down = True

        assert decode(written) == order()

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "record", "name": "Deep", "fields": [{"name": "next", "type": ["null", "Deep"]}]},
            {"type": "record", "name": "Wide", "fields": [{"name": "n", "type": {"type": "array", "items": "null"}}]},
            {"type": "record", "name": "Refers", "fields": [{"name": "n", "type": "elsewhere.Thing"}]},
            {"type": "record", "name": "Broken"},
        ],
    )
    def test_a_writers_schema_that_cannot_be_read_safely_is_a_mismatch(self, schema: dict[str, Any]) -> None:
        class Careless(LocalRegistry):
            """A registry that took what ours would refuse."""

            def _fetch(self, schema_id: int) -> dict[str, Any]:
                return schema

        deep = b"\0\0\0\0\1" + b"\2" * 100_000
        with pytest.raises(SchemaMismatch, match="schema id 1"):
            codec(registry=Careless()).decoder()(deep)


class TestOffTheLoop:
    async def test_after_a_prefetch_nothing_is_missing(self) -> None:
        registry = LocalRegistry()
        written = codec(registry=registry).encoder(TOPIC)(order())
        registry.forget()
        subject = codec(registry=registry)
        asked_by: list[int] = []
        fetch = registry._fetch

        def watched(schema_id: int) -> dict[str, Any]:
            asked_by.append(threading.get_ident())
            return fetch(schema_id)

        registry._fetch = watched  # type: ignore[method-assign]
        assert subject.missing_schema(written) == 1

        await subject.prefetch([1, 1])

        assert subject.missing_schema(written) is None
        assert subject.decoder(TOPIC)(written) == order()
        assert len(asked_by) == 1
        assert threading.get_ident() not in asked_by

    async def test_an_unknown_id_is_not_missing_after_a_prefetch(self) -> None:
        """It needs no fetch: decoding it fails at once."""
        registry = LocalRegistry()
        subject = codec(registry=registry)

        await subject.prefetch([77])

        assert subject.missing_schema(b"\0\0\0\0\x4dabc") is None
        before = registry.requests
        with pytest.raises(NotDecodable):
            subject.decoder(TOPIC)(b"\0\0\0\0\x4dabc")
        assert registry.requests == before

    async def test_a_registry_that_is_down_is_told(self) -> None:
        registry = LocalRegistry()
        registry.down = True

        with pytest.raises(RegistryUnavailable):
            await codec(registry=registry).prefetch([77, 78])

    @pytest.mark.parametrize("value", [None, b"", b"\0\0", b"plain text", b"\0\0\0\0\0"])
    def test_what_is_not_the_wire_format_needs_no_schema(self, value: bytes | None) -> None:
        assert codec().missing_schema(value) is None


class TestJson:
    def test_json_becomes_a_value_that_encodes(self) -> None:
        subject = codec()
        document = {
            "order_id": "o-1",
            "placed_at": "2026-05-04T03:02:01.123456Z",
            "quantity": 3,
            "express": True,
            "total": "19.90",
            "customer": "5b3a8a58-2c1d-4d6c-9d3e-6f1f0c1c9a11",
            "deliver_on": "2026-05-06",
            "state": "PAID",
            "lines": [{"sku": "tea", "count": 2, "class": "dry"}],
            "labels": {"channel": "web"},
        }

        assert subject.from_json(TOPIC, document) == order()
        assert subject.decoder(TOPIC)(subject.encoder(TOPIC)(subject.from_json(TOPIC, document))) == order()

    def test_defaults_are_left_to_the_encoder(self) -> None:
        schema = {"type": "record", "name": "N", "fields": [{"name": "n", "type": "int", "default": 7}]}
        subject = codec(schema)

        assert subject.from_json(TOPIC, {}) == {}
        assert subject.decoder(TOPIC)(subject.encoder(TOPIC)({})) == {"n": 7}

    def test_bytes_come_as_base64(self) -> None:
        schema = {"type": "record", "name": "B", "fields": [{"name": "b", "type": "bytes"}]}

        assert codec(schema).from_json(TOPIC, {"b": "/wA="}) == {"b": b"\xff\0"}

    def test_a_wrong_document_names_its_field(self) -> None:
        with pytest.raises(InvalidValue) as caught:
            codec().from_json(TOPIC, {"order_id": 5})

        assert caught.value.field == "order_id"


def test_the_settings_make_a_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_REGISTRY_URL", "http://127.0.0.1:9/apis/ccompat/v7")

    with pytest.raises(RegistryUnavailable):
        Codec.from_env().encoder("task.changes")


def test_one_schema_serves_several_topics() -> None:
    shared = Catalogue.of(topics=[TopicSpec("a", "OrderPlaced"), TopicSpec("b", "OrderPlaced")], schemas=[ORDER])
    subject = Codec(shared, LocalRegistry())

    assert subject.encoder("a")(order()) == subject.encoder("b")(order())
