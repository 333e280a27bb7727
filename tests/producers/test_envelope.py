"""Ids are unique, times are RFC 3339, and a trace that is under way goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace

from headwater_producers.envelope import Envelope, rfc3339
from headwater_schemas.clock import ManualClock, SystemClock
from headwater_schemas.errors import UsageError

TYPE = ("ce_type", "orders.placed")


def test_ids_differ_within_and_between_producers() -> None:
    envelopes = [Envelope("orders", SystemClock()) for _ in range(100)]
    ids = {envelope.new_id(next(envelope.numbers)) for envelope in envelopes for _ in range(100)}
    assert len(ids) == 10_000


def test_a_renewed_envelope_gives_other_ids() -> None:
    envelope = Envelope("orders", SystemClock())
    before = envelope.new_id(1)
    envelope.renew()
    assert envelope.new_id(1) != before


@given(st.floats(min_value=0, max_value=4e9))
def test_a_time_is_utc_with_at_most_microseconds(seconds: float) -> None:
    text = rfc3339(seconds)
    assert text.endswith("Z")
    assert abs(datetime.fromisoformat(text).timestamp() - seconds) < 2e-6


@given(st.lists(st.floats(min_value=-3, max_value=3), max_size=20))
def test_the_stamp_follows_a_clock_that_steps_either_way(steps: list[float]) -> None:
    clock = ManualClock()
    envelope = Envelope("orders", clock)
    for step in steps:
        clock._time += step
        stamp = dict(envelope.headers("id", TYPE))["ce_time"]
        assert isinstance(stamp, str)
        assert 0 <= clock.time() - datetime.fromisoformat(stamp).timestamp() < 0.0011


def test_a_datetime_needs_a_time_zone() -> None:
    with pytest.raises(UsageError, match="no time zone"):
        rfc3339(datetime(2026, 1, 1))
    assert rfc3339(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


def test_without_a_span_there_is_no_traceparent() -> None:
    assert "traceparent" not in dict(Envelope("orders", SystemClock()).headers("id", TYPE))


def test_an_active_span_is_passed_on() -> None:
    span = trace.NonRecordingSpan(
        trace.SpanContext(
            trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
            span_id=0xF067AA0BA902B7,
            is_remote=True,
            trace_flags=trace.TraceFlags(1),
        )
    )
    token = context.attach(trace.set_span_in_context(span))
    try:
        headers = dict(Envelope("orders", SystemClock()).headers("id", TYPE))
        given_headers = Envelope("orders", SystemClock()).custom_headers(
            "id", TYPE, None, f"00-{'1' * 32}-{'2' * 16}-00", None
        )
    finally:
        context.detach(token)
    assert headers["traceparent"] == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert dict(given_headers)["traceparent"] == f"00-{'1' * 32}-{'2' * 16}-00"
    assert len(given_headers) == 7
