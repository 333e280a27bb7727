"""The outbox relay as a process: relays in a thread, answers probes and Prometheus, ends cleanly on a signal."""

from __future__ import annotations

from headwater_ops import serving
from headwater_producers.outbox import Relay
from headwater_schemas.settings import Environment

__all__ = ["relay_once", "serve"]

_SETTING = "HEADWATER_OUTBOX_HTTP"
_LATE_SECONDS = 120.0


def relay_once(env: Environment) -> int:
    """Send what is in the outbox now; gives how many events. Blocks.

    Raises:
        OutboxUnavailable, BrokerUnavailable: database or broker do not answer; what was not sent stays.
        UsageError: there is no outbox in the database.
    """
    relay = Relay.from_env(env)
    try:
        total = 0
        while dealt_with := relay.relay_once():
            total += dealt_with
        return total
    finally:
        relay.close()


def serve(env: Environment) -> None:
    """Relay until SIGTERM or ^C; a batch that is under way is finished.

    Raises:
        SettingError: a setting is missing or malformed, or the address cannot be had.
        UsageError: there is no outbox in the database.
    """
    relay = Relay.from_env(env)
    try:
        serving.serve(relay, env.text(_SETTING), setting=_SETTING, late=_LATE_SECONDS, doing="relaying the outbox")
    finally:
        relay.close()
