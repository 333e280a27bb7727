"""How an app joins its group, and what its settings may be."""

from __future__ import annotations

from typing import Any

import pytest

from headwater_schemas.errors import SettingError
from headwater_schemas.settings import Environment
from headwater_streams import StreamApp
from headwater_streams.transport.driver import Transport
from headwater_streams.transport.producer import topic_request

WORKER = "HEADWATER_WORKER_ID"


def transport_of(settings: dict[str, str], **faust_settings: Any) -> Transport:
    """Of an app with these settings; nothing is connected."""
    transport = StreamApp("billing", env=Environment(settings), faust_settings=faust_settings).transport
    assert isinstance(transport, Transport)
    return transport


@pytest.mark.parametrize(("drain", "interval"), [("240s", 300.0), ("8m", 600.0)])
def test_a_drain_within_the_poll_interval_is_taken(drain: str, interval: float) -> None:
    transport = transport_of({"HEADWATER_WORKER_DRAIN": drain}, broker_max_poll_interval=interval)

    assert transport.drain_seconds == 0.8 * interval


def test_a_drain_in_which_the_group_would_throw_the_member_out_says_what_to_pass() -> None:
    with pytest.raises(SettingError, match="HEADWATER_WORKER_DRAIN=5m: pass at most 240s"):
        transport_of({"HEADWATER_WORKER_DRAIN": "5m"})


@pytest.mark.parametrize(("settings", "session", "heartbeat"), [({}, 10_000, 1_666), ({WORKER: "w-1"}, 45_000, 3_000)])
def test_a_static_member_of_classic_brokers_has_time_to_restart(
    settings: dict[str, str], session: int, heartbeat: int
) -> None:
    transport = transport_of(settings)

    config = transport.group_settings().config(transport.kafka, "classic")

    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (session, heartbeat)


def test_the_session_of_a_static_member_can_be_chosen() -> None:
    transport = transport_of({WORKER: "w-1"}, broker_session_timeout=20.0)

    assert transport.group_settings().session_timeout == 20.0


@pytest.mark.parametrize(("asked", "requested"), [(0, -1), (1, -1), (2, 2), (3, 3)])
def test_what_faust_creates_has_as_many_replicas_as_the_brokers_give_unless_more_are_asked_for(
    asked: int, requested: int
) -> None:
    assert topic_request("counts-changelog", 8, asked, None, None, True, False).replication == requested
