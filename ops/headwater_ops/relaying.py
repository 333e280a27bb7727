"""The outbox relay as a process: relays in a thread, answers probes and Prometheus, ends cleanly on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time

from headwater_producers.outbox import Relay
from headwater_schemas.settings import Environment

__all__ = ["relay_once", "serve"]

_SETTING = "HEADWATER_OUTBOX_HTTP"
_LATE_SECONDS = 120.0

logger = logging.getLogger(__name__)


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(Relay.from_env(env), env.text(_SETTING)))


async def _serve(relay: Relay, address: str) -> None:
    from headwater_streams.status import StatusServer  # brings Faust with it, which `--once` does not need

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def alive() -> str | None:
        silent = time.monotonic() - relay.last_turn
        return f"the relay has not turned for {silent:.0f} s" if silent > _LATE_SECONDS else None

    async def ready() -> str | None:
        return relay.trouble

    server = StatusServer(address, setting=_SETTING, alive=alive, ready=ready)
    await server.start()
    logger.info("relaying the outbox; %s/metrics", server.url)
    try:
        await asyncio.to_thread(relay.run, stop)
    finally:
        await server.close()
        relay.close()
