"""A Faust transport on librdkafka. Use it by URL scheme: ``faust.App("billing", broker="headwater://127.0.0.1:9092")``.

Everything of Faust works on it unchanged (agents, ``take``, tables, timers, ``faust -A … worker``) except what the
``assignor`` module names. TLS, SASL and limits come from ``HEADWATER_KAFKA_*``; the URL gives the brokers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_args

from faust.transport import base
from faust.types import AppT
from yarl import URL

from headwater_schemas.errors import SettingError
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams.transport.assignor import BrokerAssigned
from headwater_streams.transport.consumer import Consumer
from headwater_streams.transport.group_settings import GroupProtocol, GroupSettings
from headwater_streams.transport.producer import Producer

__all__ = ["Transport"]

_PORT = 9092


_DRAIN_SHARE = 0.8  # of the poll interval: what is settled must be committed within it too


class Transport(base.Transport):
    """The driver behind ``headwater://``.

    Raises:
        SettingError: a setting is malformed, or ``HEADWATER_WORKER_DRAIN`` too long for the app's poll interval.
    """

    Consumer = Consumer
    Producer = Producer
    default_port = _PORT
    driver_version = "headwater_streams"

    def __init__(self, url: list[URL], app: AppT, loop: Any = None) -> None:
        super().__init__(url, app, loop)
        env: Environment = getattr(app, "env", None) or Environment()  # a plain Faust app has none
        bootstrap = ",".join(f"{u.host or '127.0.0.1'}:{u.port or _PORT}" for u in url)
        self.kafka = replace(KafkaSettings.from_env(env), bootstrap=bootstrap)
        self.member = env.get("HEADWATER_WORKER_ID")
        self.drain_seconds = _drain_of(env, app.conf.broker_max_poll_interval)
        self.protocol = env.choice("HEADWATER_WORKER_GROUP_PROTOCOL", get_args(GroupProtocol))
        self.fetch_min_bytes = env.integer("HEADWATER_WORKER_FETCH_MIN_BYTES")
        self.fetch_wait = env.duration("HEADWATER_WORKER_FETCH_WAIT")
        app.conf.PartitionAssignor = BrokerAssigned  # type: ignore[assignment]  # a class setting, typed as a form

    def group_settings(self) -> GroupSettings:
        """How the app's worker joins its group; the group id is the app's id."""
        conf = self.app.conf
        return GroupSettings(
            group=conf.id,
            member=self.member,
            protocol=cast("GroupProtocol", self.protocol),
            session_timeout=conf.broker_session_timeout,
            max_poll_interval=conf.broker_max_poll_interval,
            isolation="read_committed",
            fetch_min_bytes=self.fetch_min_bytes,
            fetch_wait=self.fetch_wait,
        )


def _drain_of(env: Environment, poll_interval: float) -> float:
    """Seconds that a revocation may take. It is served inside a poll, and librdkafka leaves the group of a member that
    does not poll for longer than its interval: in mid-drain, with nothing committed."""
    name = "HEADWATER_WORKER_DRAIN"
    drain, longest = env.duration(name), _DRAIN_SHARE * poll_interval
    if drain > longest:
        raise SettingError(
            f"{name}={env.text(name)}: pass at most {longest:.0f}s, or a longer broker_max_poll_interval than"
            f" {poll_interval:.0f} s in faust_settings: a member that does not poll for so long is out of its group"
        )
    return drain
