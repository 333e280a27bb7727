"""A transactional worker of its own process: bills each order once, fails some at first, lets some die.

python -m streams.billing_worker GROUP TOPIC OUT SEED
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from typing import Any

from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_streams import EventContext, Retry, StreamApp
from streams.orders import catalogue, order

__all__ = ["build", "fate"]


def fate(seed: int, key: str, number: int) -> int:
    """How often an order fails: 5 % once, 2 % always (99)."""
    dice = zlib.crc32(f"{seed}/{key}/{number}".encode()) % 100
    return 99 if dice < 2 else 1 if dice < 7 else 0


def build(group: str, topic: str, out: str, seed: int) -> StreamApp:
    """The app: emits two bills for each order, from within one call."""
    known = catalogue(topic, out)
    codec = Codec(known, LocalRegistry())
    codec.encoder(topic)  # so that the registry of this process knows the schema
    app = StreamApp(
        group,
        catalogue=known,
        codec=codec,
        processing="transactional",
        faust_settings={"web_enabled": False},
    )

    @app.handler(topic, name="bill", retry=Retry("300ms"), concurrency=50)
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        key, number = value["key"], value["number"]
        event.emit(out, order(f"{key}/net", number), key=key)
        await asyncio.sleep(0.002 * (1 + number % 5))
        event.emit(out, order(f"{key}/tax", number), key=key)
        if event.attempt < fate(seed, key, number):
            raise RuntimeError(f"order {number} of {key} fails")

    return app


def main() -> None:
    import faust
    import uvloop

    group, topic, out, seed = sys.argv[1:5]
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    faust.Worker(build(group, topic, out, int(seed)), loglevel="WARN", loop=loop, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
