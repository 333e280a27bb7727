"""A cache sync as a process of its own, to be killed: ``python -m cache.sync_worker BOOTSTRAP REDIS_URL ENTITY``."""

from __future__ import annotations

import asyncio
import sys

from headwater_cache import EntityCache
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from headwater_streams import StreamApp
from headwater_streams.cache_sync import sync_cache


def codec() -> Codec:
    """Every process counts its schemas alike: change events are number one."""
    codec = Codec(Catalogue.from_env(Environment({})), LocalRegistry())
    codec.encoder("task.changes")
    return codec


def app_of(bootstrap: str, entity: str, codec: Codec) -> StreamApp:
    """An app whose group waits for a dead member as short as a broker allows."""
    env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, "HEADWATER_WORKER_COMMIT_INTERVAL": "100ms"})
    settings = {"web_enabled": False, "broker_session_timeout": 6.0}
    return StreamApp(f"{entity}-sync", env=env, codec=codec, faust_settings=settings)


async def _run(bootstrap: str, redis_url: str, entity: str) -> None:
    app = app_of(bootstrap, entity, codec())
    sync_cache(app, EntityCache[int](entity, redis_url), max_records=20)
    app.finalize()
    await app.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
