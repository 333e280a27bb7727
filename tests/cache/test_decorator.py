"""``@cached`` where functions are declared: in a class, and for a framework that asks whether they are coroutines."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from headwater_cache import EntityCache, cached
from headwater_schemas.errors import UsageError


@pytest.fixture
def cache(redis_url: str, name: str) -> Iterator[EntityCache[Any]]:
    with EntityCache[Any](name, redis_url, mode="cache") as cache:
        yield cache


def test_a_method_is_cached_per_what_its_key_names(cache: EntityCache[Any]) -> None:
    """Of its instance, too; and invalidated through it."""

    class Prices:
        def __init__(self, region: str) -> None:
            self.region = region
            self.calls = 0

        @cached(cache, key="{self.region}:{of}")
        def price(self, of: str) -> str:
            self.calls += 1
            return f"{of} in {self.region}, {self.calls}"

    here, there = Prices("eu"), Prices("us")
    assert [here.price("seat"), here.price(of="seat"), there.price("seat")] == [
        "seat in eu, 1",
        "seat in eu, 1",
        "seat in us, 1",
    ]
    assert here.price.key("seat") == "eu:seat"
    assert here.price.invalidate("seat")
    assert (here.price("seat"), there.price("seat")) == ("seat in eu, 2", "seat in us, 1")
    assert Prices.price.key(here, "seat") == "eu:seat"


async def test_an_async_method_is_awaited(cache: EntityCache[Any]) -> None:
    class Prices:
        @cached(cache, key="{of}")
        async def price(self, of: str) -> str:
            return of

    assert await Prices().price("seat") == "seat"
    assert asyncio.iscoroutinefunction(Prices().price)
    await cache.aclose()


async def test_a_web_framework_awaits_an_async_one_on_its_loop(cache: EntityCache[Any]) -> None:
    """It asks whether a function is a coroutine function, and calls others in a thread."""
    threads = set()
    called: list[str] = []

    @cached(cache, key="async:{of}")
    async def awaited(of: str) -> str:
        threads.add(threading.get_ident())
        return of

    @cached(cache, key="plain:{of}")
    def plain(of: str) -> str:
        called.append(of)
        return of

    api = FastAPI()
    api.get("/awaited/{of}")(awaited)
    api.get("/plain/{of}")(plain)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://127.0.0.1") as client:
        for path in ("awaited", "plain"):
            answers = [await client.get(f"/{path}/x") for _ in range(2)]
            assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "x")] * 2
    await cache.aclose()

    assert (threads, called) == ({threading.get_ident()}, ["x"])
    assert asyncio.iscoroutinefunction(awaited)
    assert not asyncio.iscoroutinefunction(plain)
    assert inspect.signature(awaited).parameters.keys() == {"of"}


@pytest.mark.parametrize("key", ["{other}", "{}", "{0}", "{of", "{other.region}"])
def test_a_key_names_parameters(cache: EntityCache[Any], key: str) -> None:
    with pytest.raises(UsageError, match="name its parameters"):

        @cached(cache, key=key)
        def price(of: str) -> str:
            return of
