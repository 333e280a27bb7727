"""A command that goes on until a signal comes: its work in a thread, beside it probes and metrics."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from typing import Protocol

__all__ = ["Service", "serve"]

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Work without an end.

    Attributes:
        last_turn: when its loop last turned; of the monotonic clock.
        trouble: what keeps it from its work, if anything does.
    """

    last_turn: float
    trouble: str | None

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. Blocks; what it raises ends the process."""


def serve(service: Service, address: str, *, setting: str, late: float, doing: str) -> None:
    """Run a service until SIGTERM or ^C; a turn that is under way is finished. Blocks.

    Args:
        address: ``host:port`` of ``/livez``, ``/readyz`` and ``/metrics``.
        setting: the name of the setting that ``address`` came from.
        late: seconds without a turn after which the process should be restarted.
        doing: what it does, for the log.

    Raises:
        SettingError: the address cannot be had; then nothing was run.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(service, address, setting, late, doing))


async def _serve(service: Service, address: str, setting: str, late: float, doing: str) -> None:
    from headwater_streams.status import StatusServer  # brings Faust with it, which `outbox relay --once` does not need

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def alive() -> str | None:
        silent = time.monotonic() - service.last_turn
        return f"no turn was finished for {silent:.0f} s" if silent > late else None

    async def ready() -> str | None:
        return service.trouble

    server = StatusServer(address, setting=setting, alive=alive, ready=ready)
    await server.start()
    logger.info("%s; %s/metrics", doing, server.url)
    try:
        await asyncio.to_thread(service.run, stop)
    finally:
        await server.close()
