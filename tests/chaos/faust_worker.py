"""The same work as a plain Faust app on Faust's own aiokafka driver, as its users write it: to compare with.

python -m chaos.faust_worker GROUP TOPIC SEED CONCURRENCY

What is set beside Faust's defaults: it begins at the earliest offset, and its session ends after 6 s instead of 60, so
that a run with frozen workers does not take minutes. A failing handler raises; Faust has no retries of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections import Counter
from typing import Any

import faust

from chaos.events import codec_for, failures_of
from headwater_streams.testing.effects import note_effect

__all__ = ["build"]


def build(group: str, topic: str, seed: int, concurrency: int) -> faust.App:
    app = faust.App(
        group,
        broker=f"kafka://{os.environ['HEADWATER_KAFKA_BOOTSTRAP'].replace(',', ';kafka://')}",
        broker_client_id=os.environ["HEADWATER_WORKER_ID"],
        broker_session_timeout=6,
        broker_heartbeat_interval=2,
        consumer_auto_offset_reset="earliest",
        topic_replication_factor=1,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=tempfile.mkdtemp(),
    )
    decode = codec_for(topic).decoder(topic)
    failed: Counter[tuple[str, int]] = Counter()

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), concurrency=concurrency)
    async def step(stream: Any) -> None:
        async for raw in stream:
            value = decode(raw)
            key, number = value["key"], value["number"]
            await asyncio.sleep(0.002)
            if failed[key, number] < failures_of(seed, key, number):
                failed[key, number] += 1
                raise RuntimeError(f"step {number} of {key} fails")
            note_effect(f"{key}/{number}")

    return app


def main() -> None:
    group, topic, seed, concurrency = sys.argv[1:5]
    app = build(group, topic, int(seed), int(concurrency))
    faust.Worker(app, loglevel="WARN", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
