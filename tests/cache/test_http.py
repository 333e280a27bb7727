"""The cache over HTTP: who may look, and at what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI

from cache.redis_server import RedisServer
from cache.table import Table
from headwater_cache import EntityCache, Loaded
from headwater_cache.testing import MemoryLog
from headwater_ops.cache_api import cache_router
from headwater_ops.demo.catalogue import CONTRACT_FOLDER
from headwater_schemas.settings import Environment
from headwater_tasks.http import problems
from headwater_tasks.http.keys import ApiKeys, new_key

ENTITY = "plane"  # its change topic is in the catalogue, with the demo's contracts


@pytest.fixture
def api(redis_url: str, raw: redis.Redis) -> FastAPI:
    """The routes of the cache, for this machine; no keys are set, and the cache is empty."""
    for name in raw.keys(f"{{{ENTITY}:*"):
        raw.delete(name)
    return made_for(redis_url)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
async def cache(redis_url: str, table: Table) -> AsyncIterator[EntityCache[int]]:
    """The same, as the program that owns it has it, with its source."""
    async with EntityCache(ENTITY, redis_url, mode="cache", source=table) as cache:
        yield cache


def made_for(redis_url: str) -> FastAPI:
    env = Environment({"HEADWATER_REDIS_URL": redis_url, "HEADWATER_CONTRACTS": str(CONTRACT_FOLDER)})
    app = FastAPI()
    app.state.keys = None
    problems.install(app)
    app.include_router(cache_router(env))
    return app


async def ask(api: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.request(method, path, **options)


async def get(api: FastAPI, path: str, **options: Any) -> httpx.Response:
    return await ask(api, "GET", path, **options)


async def invalidate(api: FastAPI, **what: list[str]) -> httpx.Response:
    return await ask(api, "POST", f"/v1/cache/{ENTITY}/invalidate", json=what)


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


async def test_a_cache_is_counted(api: FastAPI, redis_url: str) -> None:
    """As `headwater cache stats` does."""
    async with EntityCache[str](ENTITY, redis_url, log=MemoryLog()) as view:
        for number in range(3):
            await view.aput(f"k{number}", "x")
    answer = await get(api, f"/v1/cache/{ENTITY}/stats")

    assert (answer.json()["states"], answer.json()["lasting"]) == ({"V": 3}, 3)
    assert (await get(api, f"/v1/cache/{ENTITY}/stats?limit=0")).status_code == 422


async def test_only_caches_of_the_catalogue_are_shown(api: FastAPI, raw: redis.Redis) -> None:
    """Asking makes no names in Redis."""
    for method, path in (("GET", "k/explain"), ("GET", "k/value"), ("GET", "stats"), ("POST", "invalidate")):
        answer = await ask(api, method, f"/v1/cache/made-up/{path}", json={"keys": ["k"]})
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:headwater:problem:not-found"
    assert raw.keys("*made-up*") == []


async def test_the_scope_is_asked_for(api: FastAPI, tmp_path: Path) -> None:
    """A key that may read tasks may not look into caches, and one that may look may not see values."""
    scopes = ("tasks:read", "cache:read", "cache:values")
    made = {scope: new_key(scope.replace(":", "-"), [scope]) for scope in scopes}
    (tmp_path / "keys.toml").write_text("\n".join(table for _, table in made.values()))
    api.state.keys = ApiKeys.load(tmp_path / "keys.toml")
    path, codes = f"/v1/cache/{ENTITY}/k", {}
    for scope, (token, _) in made.items():
        headers = {"Authorization": f"Bearer {token}"}
        answers = [await get(api, f"{path}/{what}", headers=headers) for what in ("explain", "value?mode=cache")]
        codes[scope] = tuple(answer.status_code for answer in answers)

    assert codes == {"tasks:read": (403, 403), "cache:read": (200, 403), "cache:values": (403, 404)}
    for what in ("explain", "value"):
        assert (await get(api, f"{path}/{what}")).status_code == 401


async def test_a_value_is_read_as_readers_are_served_it(api: FastAPI, redis_url: str) -> None:
    """Of a view, and of a cache; keys with slashes, and named as a route is, too."""
    async with EntityCache[Any](ENTITY, redis_url, log=MemoryLog()) as view:
        for key in ("N1/left wing", "stats", "x/explain"):
            await view.aput(key, {"seats": 7, "photo": b"\x00", "weight": float("nan")})
            answer = await get(api, f"/v1/cache/{ENTITY}/{key}/value")

            assert answer.status_code == 200, answer.text
            assert answer.json()["key"] == key
            assert answer.json()["value"] == {"seats": 7, "photo": "AA==", "weight": None}
    assert answer.json()["version"] == "log:1:2"


async def test_a_value_that_no_reader_is_served_is_not_found(api: FastAPI, cache: EntityCache[int]) -> None:
    """Invalidated, ended by its tag, never there; what is said is why."""
    await cache.aput("fenced", 1)
    await cache.aload("tagged", lambda: Loaded(1, 1, ("t",)))
    for key in ("fenced", "tagged"):
        assert (await get(api, f"/v1/cache/{ENTITY}/{key}/value")).json()["value"] == 1
    await cache.ainvalidate("fenced")
    await cache.ainvalidate_tags("t")
    answers = {key: await get(api, f"/v1/cache/{ENTITY}/{key}/value") for key in ("fenced", "tagged", "absent")}

    for key, why in (("fenced", "newer than the cache"), ("tagged", "a tag"), ("absent", "nothing is stored")):
        assert answers[key].status_code == 404
        assert why in answers[key].json()["detail"]


async def test_what_is_no_value_is_said_so(api: FastAPI, cache: EntityCache[int], raw: redis.Redis) -> None:
    await cache.acheck()
    raw.set(f"{{{ENTITY}:1:k}}", "hello")
    answer = await get(api, f"/v1/cache/{ENTITY}/k/value")

    assert (answer.status_code, answer.json()["type"]) == (409, "urn:headwater:problem:not-decodable")


async def test_a_key_is_invalidated(api: FastAPI, cache: EntityCache[int], table: Table) -> None:
    """The next read asks the source; repeating it changes nothing."""
    table.write("N1/left wing", 1)
    assert await cache.aget("N1/left wing") == 1
    table.rows["N1/left wing"] = (2, 2)
    answers = [await invalidate(api, keys=["N1/left wing", "other"]) for _ in range(2)]

    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "entity": ENTITY,
            "invalidated": ["N1/left wing"],
            "absent": ["other"],
            "tags": [],
        }
    assert await cache.aget("N1/left wing") == 2


async def test_a_tag_is_invalidated(api: FastAPI, cache: EntityCache[int]) -> None:
    """Everything that carries it."""
    values = iter([1, 2])

    async def load() -> Loaded[int]:
        return Loaded(next(values), 1, ("carrier:UA",))

    assert (await cache.aload("tagged", load)).value == 1
    answer = await invalidate(api, tags=["carrier:UA"])

    assert (answer.status_code, answer.json()["tags"]) == (200, ["carrier:UA"]), answer.text
    assert (await cache.aload("tagged", load)).value == 2


@pytest.mark.parametrize("what", [{"keys": ["k"]}, {"tags": ["carrier:UA"]}], ids=["key", "tag"])
async def test_a_view_is_not_invalidated(api: FastAPI, redis_url: str, what: dict[str, list[str]]) -> None:
    """The answer says why, and what to do; what it holds stays."""
    async with EntityCache[int](ENTITY, redis_url, log=MemoryLog()) as view:
        await view.aput("k", 1)
        answer = await invalidate(api, **what)

        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:headwater:problem:no-source"
        assert "headwater cache warm" in answer.json()["detail"]
        assert await view.aget("k") == 1


@pytest.mark.parametrize("what", [{}, {"keys": [""]}, {"tags": [""]}, {"keys": ["k"] * 101}, {"key": ["k"]}])
async def test_what_can_not_be_invalidated_is_refused(api: FastAPI, what: dict[str, list[str]]) -> None:
    """Nothing at all, a key or tag that can not be, too many, a misspelt field."""
    answer = await invalidate(api, **what)

    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "urn:headwater:problem:invalid"


async def test_to_invalidate_takes_a_scope_of_its_own(api: FastAPI, tmp_path: Path) -> None:
    """One who may look may not; one who may invalidate sees nothing by it."""
    made = {scope: new_key(scope.replace(":", "-"), [scope]) for scope in ("cache:read", "cache:write")}
    (tmp_path / "keys.toml").write_text("\n".join(table for _, table in made.values()))
    api.state.keys = ApiKeys.load(tmp_path / "keys.toml")
    path, codes = f"/v1/cache/{ENTITY}", {}
    for scope, (token, _) in made.items():
        headers = {"Authorization": f"Bearer {token}"}
        posted = await ask(api, "POST", f"{path}/invalidate", json={"keys": ["nobody's"]}, headers=headers)
        codes[scope] = (posted.status_code, (await get(api, f"{path}/stats", headers=headers)).status_code)

    assert codes == {"cache:read": (403, 200), "cache:write": (200, 403)}


async def test_a_redis_that_evicts_is_looked_into_as_well(tmp_path: Path) -> None:
    """As the Redis of a cache does, where a view would be refused."""
    server = RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lfu")
    try:
        api = made_for(server.url)
        codes = [(await get(api, f"/v1/cache/{ENTITY}/{path}")).status_code for path in ("k/explain", "stats")]
        codes += [(await get(api, f"/v1/cache/{ENTITY}/k/value{of}")).status_code for of in ("", "?mode=view")]
        codes.append((await invalidate(api, keys=["k"], tags=["t"])).status_code)
    finally:
        server.kill()

    assert codes == [200, 200, 404, 422, 200]


async def test_a_redis_that_is_away_is_503() -> None:
    """And says so."""
    api = made_for("redis://127.0.0.1:1")
    for answer in (
        await get(api, f"/v1/cache/{ENTITY}/k/explain"),
        await get(api, f"/v1/cache/{ENTITY}/k/value"),
        await invalidate(api, keys=["k"]),
    ):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:headwater:problem:unavailable"
