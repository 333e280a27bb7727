from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_schemas import wire
from headwater_schemas.errors import NotDecodable, UsageError


@given(st.integers(1, 2**31 - 1), st.binary())
def test_a_framed_payload_gives_its_schema_id_back(schema_id: int, payload: bytes) -> None:
    framed = wire.frame(schema_id, payload)

    assert framed == b"\0" + schema_id.to_bytes(4, "big") + payload
    assert wire.schema_id_of(framed) == schema_id


@pytest.mark.parametrize(
    "value",
    [b"", b"\0", b"\0\0\0\1", b"\1\0\0\0\1", b'{"a": 1}', b"\0\0\0\0\0", b"\0\x80\0\0\0", b"\0" + b"\xff" * 4],
)
def test_what_is_not_the_wire_format_is_not_decodable(value: bytes) -> None:
    with pytest.raises(NotDecodable):
        wire.schema_id_of(value)


def test_retry_and_dead_letter_topics_follow_the_contract() -> None:
    assert wire.retry_topic("flights.departed", "board", "10s") == "flights.departed.board.retry.10s"
    assert wire.retry_topic("flights.departed", "board", 60) == "flights.departed.board.retry.1m"
    assert wire.dead_letter_topic("flights.departed", "board") == "flights.departed.board.dlt"
    assert wire.change_topic("flights") == "flights.changes"
    assert wire.subject_of("flights.departed") == "flights.departed-value"


def test_the_same_delay_written_differently_is_one_retry_topic() -> None:
    assert {wire.retry_topic("a", "g", delay) for delay in ("60s", "1m", 60, 60.0, "60000ms")} == {"a.g.retry.1m"}


@pytest.mark.parametrize("group", ["with space", "a/b", "ü", "", "x" * 250])
def test_a_group_that_kafka_cannot_have_in_a_topic_name_is_refused(group: str) -> None:
    with pytest.raises(UsageError, match="cannot be a topic"):
        wire.dead_letter_topic("orders", group if group else "/")


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a:b", "x" * 250])
def test_a_name_that_kafka_refuses_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a topic"):
        wire.check_topic_name(name)


def test_every_reason_is_listed() -> None:
    assert get_args(wire.Reason) == wire.REASONS


def test_header_names_are_lower_case_and_unique() -> None:
    names = [getattr(wire, name) for name in wire.__all__ if name.startswith(("CE_", "HW_")) and name != "HW_HEADERS"]

    assert all(name == name.lower() for name in names)
    assert len(set(names)) == len(names)
    assert set(wire.HW_HEADERS) == {name for name in names if name.startswith("hw-")}
