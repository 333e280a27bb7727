"""One worker under test: notes each effect outside Kafka, then returns. ``python -m chaos.worker GROUP TOPIC SEED``"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faust
import uvloop

from chaos.events import codec_for, failures_of
from headwater_streams import EventContext, Retry, StreamApp
from headwater_streams.testing.effects import note_effect

__all__ = ["build"]


def build(group: str, topic: str, seed: int) -> StreamApp:
    """The app: a handler that fails as ``failures_of`` says and otherwise leaves a line."""
    codec = codec_for(topic)
    app = StreamApp(group, catalogue=codec.catalogue, codec=codec, faust_settings={"web_enabled": False})

    @app.handler(topic, name="step", retry=Retry("500ms", "2s"), concurrency=50)
    async def step(value: dict[str, Any], event: EventContext) -> None:
        key, number = value["key"], value["number"]
        await asyncio.sleep(0.002)
        if event.attempt < failures_of(seed, key, number):
            raise RuntimeError(f"step {number} of {key} fails")
        note_effect(f"{key}/{number}")

    return app


def main() -> None:
    group, topic, seed = sys.argv[1:4]
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    app = build(group, topic, int(seed))
    faust.Worker(app, loglevel="WARN", loop=loop, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
