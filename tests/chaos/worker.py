"""One worker under test: writes each effect to a file outside Kafka, in one atomic line, then returns.

python -m chaos.worker GROUP TOPIC EFFECTS SEED
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import zlib
from typing import Any

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_streams import EventContext, Retry, StreamApp

__all__ = ["SCHEMA", "SCHEMA_ID", "build", "failures_of"]

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Step",
    "fields": [{"name": "key", "type": "string"}, {"name": "number", "type": "long"}],
}
SCHEMA_ID = 1


def failures_of(seed: int, key: str, number: int) -> int:
    """How often the handler fails for this event: 5 % once or twice, 1 % always (99)."""
    dice = zlib.crc32(f"{seed}/{key}/{number}".encode()) % 1000
    if dice < 10:
        return 99
    return 1 if dice < 40 else 2 if dice < 60 else 0


def codec_for(topic: str) -> Codec:
    """The codec of one topic, on a registry in memory: every process gives the schema the same id."""
    catalogue = Catalogue.of(topics=[TopicSpec(name=topic, schema="Step")], schemas=[SCHEMA])
    codec = Codec(catalogue, LocalRegistry())
    codec.encoder(topic)
    return codec


def build(group: str, topic: str, effects: str, seed: int) -> StreamApp:
    """The app: a handler that fails as ``failures_of`` says and otherwise leaves a line."""
    file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    codec = codec_for(topic)
    app = StreamApp(group, catalogue=codec.catalogue, codec=codec, faust_settings={"web_enabled": False})

    @app.handler(topic, name="step", retry=Retry("500ms", "2s"), concurrency=50)
    async def step(value: dict[str, Any], event: EventContext) -> None:
        key, number = value["key"], value["number"]
        await asyncio.sleep(0.002)
        if event.attempt < failures_of(seed, key, number):
            raise RuntimeError(f"step {number} of {key} fails")
        os.write(file, f"{key} {number} {event.attempt} {os.getpid()} {time.time():.6f}\n".encode())

    return app


def main() -> None:
    import faust
    import uvloop

    group, topic, effects, seed = sys.argv[1:5]
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    app = build(group, topic, effects, int(seed))
    faust.Worker(app, loglevel="WARN", loop=loop, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
