"""The lag collector as a process: looks at an interval, serves the figures to Prometheus until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

from prometheus_client import REGISTRY

from headwater_ops.lag.collector import LagCollector
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.status import StatusServer
from headwater_streams.transport.log import Log

__all__ = ["serve"]

logger = logging.getLogger(__name__)

_SETTING = "HEADWATER_LAG_HTTP"
_WINDOW = 300.0  # seconds of history that a group's status is judged by
_LATE = 5  # intervals without an answer after which the collector says that it is not ready


def serve(env: Environment, interval: float, groups: Sequence[str]) -> None:
    """Run until SIGTERM or ^C. One collector is enough for a cluster; two would show everything twice.

    Args:
        env: where Kafka is; ``HEADWATER_LAG_HTTP`` says where to listen.
        interval: seconds from one look to the next.
        groups: only groups that fit one of these shell patterns.

    Raises:
        SettingError: the address cannot be had.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(env, interval, groups))


async def _serve(env: Environment, interval: float, groups: Sequence[str]) -> None:
    log, registry = Log(KafkaSettings.from_env(env)), Registry.from_env(env)
    looks = max(3, round(_WINDOW / interval))
    collector = LagCollector(log, Ledger(log, registry), groups=groups, looks=looks)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    last = asyncio.get_running_loop().time()

    async def alive() -> str | None:
        silent = asyncio.get_running_loop().time() - last
        return f"no look was finished for {silent:.0f} s" if silent > _LATE * interval + 120 else None

    async def ready() -> str | None:
        return None if collector.succeeded_at is not None else "the brokers have not answered yet"

    server = StatusServer(env.text(_SETTING), setting=_SETTING, alive=alive, ready=ready)
    await server.start()
    logger.info("lag of groups %s every %g s: %s/metrics", ", ".join(groups), interval, server.url)
    REGISTRY.register(collector)
    try:
        while not stopped.is_set():
            await asyncio.to_thread(collector.look)
            last = asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(stopped.wait(), interval)
            except TimeoutError:
                continue
    finally:
        REGISTRY.unregister(collector)
        registry.close()
        await server.close()
