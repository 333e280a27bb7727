"""Whether a worker lives and whether it works: what its container is asked by probes.

Alive: the event loop turns (else nobody answers) and the group is polled, or a rebalance or a drain runs, which may
take as long as ``HEADWATER_WORKER_DRAIN``: a probe that fails meanwhile kills every worker of a group that rebalances.
Ready: a member of the group whose partitions run, or an idle member. Neither asks about Redis, the registry or lag: a
worker that waits for them must not be restarted, and one that is behind must not be taken out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import faust
import mode
from confluent_kafka import KafkaException
from prometheus_client import REGISTRY

from headwater_schemas.admin import Coordinator
from headwater_schemas.settings import Environment
from headwater_streams.loop_metrics import LoopMetrics
from headwater_streams.status import StatusServer
from headwater_streams.transport.consumer import Consumer

__all__ = ["Health", "HealthServer"]

_STALL = 60.0  # seconds without a poll, drain not counted; a commit to a broker that is away may take as long
_ASK = 2.0  # seconds for asking the brokers whether we are a member


class Health:
    """One app's worker, seen from its own event loop.

    Args:
        now: the loop's time; only tests pass another.
    """

    def __init__(self, app: faust.App, now: Callable[[], float] | None = None) -> None:
        self._app = app
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._coordinator: Coordinator | None = None
        self._member: str | None = None  # the member id that the brokers are known to have

    async def alive(self) -> str | None:
        """Why the worker should be restarted; ``None`` while it should not."""
        consumer = self._consumer()
        if consumer is None or not consumer.polled_at:
            return None  # it starts; the startup probe bounds that
        silent = self._now() - consumer.polled_at
        limit = _STALL + consumer.transport.drain_seconds
        return f"the group was not polled for {silent:.0f} s" if silent > limit and not self._stopping() else None

    async def ready(self) -> str | None:
        """Why no work can be expected of the worker now; ``None`` when it can."""
        if self._stopping():
            return "stopping"
        consumer = self._consumer()
        if consumer is None:
            return None if self._app.started else "starting"
        if not consumer.polled_at:
            return "joining the group"
        if not consumer.group.assignment:
            return None if await self._is_member(consumer) else "not a member of the group yet"
        if consumer.pool is not None and not consumer.pool.ready:
            return "reading what waits of newly assigned partitions"
        return None

    def _consumer(self) -> Consumer | None:
        """Ours; ``None`` before the app has started and for apps on another transport."""
        consumer: Any = self._app.consumer if self._app.started else None
        return consumer if isinstance(consumer, Consumer) else None

    def _stopping(self) -> bool:
        return bool(self._app.should_stop)

    async def _is_member(self, consumer: Consumer) -> bool:
        """Whether the brokers know us although they gave us nothing. Under KIP-848 the client is not told."""
        member = consumer.group.member_id
        if member != self._member and member:
            try:
                known = await asyncio.to_thread(self._members, consumer)
            except KafkaException:
                return False  # asked again at the next probe
            self._member = member if member in known else None
        return bool(member) and member == self._member

    def _members(self, consumer: Consumer) -> set[str]:
        if self._coordinator is None:
            self._coordinator = Coordinator(consumer.transport.kafka)
        return {member.member_id for member in self._coordinator.members(self._app.conf.id, _ASK)}


class HealthServer(mode.Service):
    """The worker's HTTP endpoints as a service that Faust's worker starts before the app and stops after it.

    Args:
        app: the app that the worker runs.
        env: ``HEADWATER_WORKER_HTTP`` says where; ``None`` reads the process's environment.

    Raises:
        SettingError: the address is not ``host:port``; from ``start``: it cannot be had.
    """

    def __init__(self, app: faust.App, env: Environment | None = None) -> None:
        setting = "HEADWATER_WORKER_HTTP"
        health = Health(app)
        address = (env or Environment()).text(setting)
        self.server = StatusServer(address, setting=setting, alive=health.alive, ready=health.ready)
        self._loop_metrics = LoopMetrics()
        super().__init__()

    async def on_start(self) -> None:
        """Listen."""
        await self.server.start()
        REGISTRY.register(self._loop_metrics)
        self.add_future(self._loop_metrics.run())
        self.log.info("probes and metrics: %s/livez /readyz /metrics", self.server.url)

    async def on_stop(self) -> None:
        """Stop listening."""
        await self.server.close()
        if self._loop_metrics in REGISTRY._collector_to_names:
            REGISTRY.unregister(self._loop_metrics)
