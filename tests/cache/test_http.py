"""The cache over HTTP: who may look, and at what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI

from headwater_cache import EntityCache
from headwater_cache.testing import MemoryLog
from headwater_ops.cache_api import cache_router
from headwater_schemas.settings import Environment
from headwater_tasks.http import problems
from headwater_tasks.http.keys import ApiKeys, new_key

ENTITY = "plane"  # its change topic is in the catalogue


@pytest.fixture
def api(redis_url: str) -> FastAPI:
    """The routes of the cache, for this machine; no keys are set."""
    app = FastAPI()
    app.state.keys = None
    problems.install(app)
    app.include_router(cache_router(Environment({"HEADWATER_REDIS_URL": redis_url})))
    return app


async def get(api: FastAPI, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path, **options)


async def test_a_key_is_explained_without_its_value(api: FastAPI, redis_url: str) -> None:
    """Keys with slashes too."""
    async with EntityCache[str](ENTITY, redis_url, log=MemoryLog()) as view:
        await view.aput("N1/left wing", "secret")
        answer = await get(api, f"/v1/cache/{ENTITY}/N1/left wing/explain")

    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["key"], found["state"], found["verdict"], found["version"]) == (
        "N1/left wing",
        "V",
        "fresh",
        "log:1:0",
    )
    assert "secret" not in answer.text


async def test_a_cache_is_counted(api: FastAPI, redis_url: str, raw: redis.Redis) -> None:
    """As `headwater cache stats` does."""
    for name in raw.keys(f"{{{ENTITY}:*"):
        raw.delete(name)
    async with EntityCache[str](ENTITY, redis_url, log=MemoryLog()) as view:
        for number in range(3):
            await view.aput(f"k{number}", "x")
    answer = await get(api, f"/v1/cache/{ENTITY}/stats")

    assert answer.json()["states"] == {"V": 3}
    assert (await get(api, f"/v1/cache/{ENTITY}/stats?limit=0")).status_code == 422


async def test_only_caches_of_the_catalogue_are_shown(api: FastAPI, raw: redis.Redis) -> None:
    """Asking makes no names in Redis."""
    for path in ("/v1/cache/made-up/k/explain", "/v1/cache/made-up/stats"):
        answer = await get(api, path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:headwater:problem:not-found"
    assert raw.keys("*made-up*") == []


async def test_the_scope_is_asked_for(api: FastAPI, tmp_path: Path) -> None:
    """A key that may read tasks may not look into caches."""
    made = {scope: new_key(scope.partition(":")[0], [scope]) for scope in ("tasks:read", "cache:read")}
    (tmp_path / "keys.toml").write_text("\n".join(table for _, table in made.values()))
    api.state.keys = ApiKeys.load(tmp_path / "keys.toml")
    path = f"/v1/cache/{ENTITY}/k/explain"
    codes = {
        scope: (await get(api, path, headers={"Authorization": f"Bearer {token}"})).status_code
        for scope, (token, _) in made.items()
    }

    assert codes == {"tasks:read": 403, "cache:read": 200}
    assert (await get(api, path)).status_code == 401


async def test_a_redis_that_is_away_is_503() -> None:
    """And says so."""
    app = FastAPI()
    app.state.keys = None
    problems.install(app)
    app.include_router(cache_router(Environment({"HEADWATER_REDIS_URL": "redis://127.0.0.1:1"})))
    answer = await get(app, f"/v1/cache/{ENTITY}/k/explain")

    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:headwater:problem:unavailable"
