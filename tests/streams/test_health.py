"""What a worker answers its probes, and what it says of its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from headwater_ops.stack import Endpoints
from headwater_schemas.errors import SettingError
from headwater_streams import StreamApp
from headwater_streams.health import Health
from headwater_streams.loop_metrics import LoopMetrics
from headwater_streams.status import StatusServer
from streams.running import until
from streams.shop import Shop

pytestmark = pytest.mark.timeout(120)


def build(shop: Shop) -> StreamApp:
    """A worker of the shop's topic, not started."""
    app = StreamApp(
        shop.group, env=shop.env, catalogue=shop.catalogue, codec=shop.codec, faust_settings={"web_enabled": False}
    )

    @app.handler(shop.topic)
    async def note(value: object) -> None:
        return None

    app.finalize()
    return app


@asynccontextmanager
async def running(app: StreamApp) -> AsyncIterator[None]:
    await app.start()
    try:
        yield
    finally:
        await app.stop()
        app.codec.close()


async def test_a_worker_is_ready_when_its_partitions_run_and_not_when_it_stops(
    endpoints: Endpoints, topic_name: str
) -> None:
    app = build(Shop(topic_name, endpoints))
    health = Health(app)
    before = (await health.alive(), await health.ready())
    async with running(app):
        async with asyncio.timeout(60):
            while await health.ready() is not None:  # noqa: ASYNC110 - a broker gives no event to wait for
                await asyncio.sleep(0.02)
        while_it_runs = await health.alive()
    afterwards = (await health.alive(), await health.ready())

    assert before == (None, "starting")
    assert while_it_runs is None
    assert afterwards == (None, "stopping")


async def test_a_worker_that_polls_no_more_is_not_alive_but_a_drain_may_take_its_time(
    endpoints: Endpoints, topic_name: str
) -> None:
    app = build(Shop(topic_name, endpoints))
    async with running(app):
        consumer = app.consumer
        await until(lambda: consumer.polled_at > 0)  # type: ignore[attr-defined]  # Faust's type is not ours
        drain = app.env.duration("HEADWATER_WORKER_DRAIN")
        loop = asyncio.get_running_loop()
        draining = await Health(app, lambda: loop.time() + drain + 30).alive()
        hanging = await Health(app, lambda: loop.time() + drain + 70).alive()

    assert draining is None
    assert hanging is not None
    assert hanging.startswith("the group was not polled for")


# -- the server -------------------------------------------------------------------------------------------------------


async def well() -> str | None:
    return None


async def ill() -> str | None:
    return "it hangs"


async def test_probes_say_why_not_and_metrics_come_in_the_format_that_is_asked_for() -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    server = StatusServer("127.0.0.1:0", setting="X", alive=well, ready=ill, registry=registry)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz")
        plain = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    await server.close()

    assert (live.status_code, live.text) == (200, "ok\n")
    assert (ready.status_code, ready.text) == (503, "it hangs\n")
    assert "things_total 1.0" in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize("address", ["", "6066", "localhost:", "localhost:http", "localhost:65536"])
def test_an_address_that_is_none_says_what_to_pass(address: str) -> None:
    with pytest.raises(SettingError, match=r"HEADWATER_X=.* must be host:port"):
        StatusServer(address, setting="HEADWATER_X", alive=well, ready=well)


async def test_a_port_that_is_taken_says_what_to_set() -> None:
    first = StatusServer("127.0.0.1:0", setting="HEADWATER_X", alive=well, ready=well)
    await first.start()
    second = StatusServer(first.url.removeprefix("http://"), setting="HEADWATER_X", alive=well, ready=well)
    with pytest.raises(SettingError, match="is in use: set HEADWATER_X"):
        await second.start()
    await first.close()


# -- the loop ---------------------------------------------------------------------------------------------------------


async def test_a_blocked_loop_shows_at_the_next_scrape_and_only_there() -> None:
    metrics = LoopMetrics()
    registry = CollectorRegistry()
    registry.register(metrics)
    lag: Callable[[], float | None] = lambda: registry.get_sample_value("headwater_event_loop_lag_seconds")  # noqa: E731
    task = asyncio.create_task(metrics.run())
    await asyncio.sleep(0.01)
    time.sleep(0.6)  # noqa: ASYNC251 - the fault that this measures
    await asyncio.sleep(0.01)
    blocked, after = lag(), lag()
    task.cancel()

    assert blocked is not None
    assert blocked > 0.3
    assert after == 0.0
