"""Hot keys: found by Redis's own counters, loaded before readers ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache.redis_server import RedisServer
from cache.table import Table
from headwater_cache import CachePolicy, EntityCache, Loaded
from headwater_ops.commands.cache import app
from headwater_schemas.errors import UsageError

SHOP = """
from cache.table import Table
from headwater_cache import EntityCache

table = Table()
for number in range(100):
    table.write(f"k{number}", number)
orders = EntityCache.from_env("order", mode="cache", source=table)
other = 7
"""


@pytest.fixture
def table() -> Table:
    return Table.of(100)


def test_the_hottest_keys_warm_another_redis(counting: RedisServer, redis_url: str, name: str, table: Table) -> None:
    """Hottest first; every read of them is then a hit."""
    with EntityCache(name, counting.url, mode="cache", source=table) as busy:
        for number in range(50):
            for _ in range(1 + 20 * (number < 5)):
                busy.get(f"k{number}")
        hot = busy.hot_keys(5)
    assert sorted(hot) == [f"k{number}" for number in range(5)]

    with EntityCache(name, redis_url, mode="cache", source=table) as cold:
        before, told = table.loads, list[int]()
        assert cold.warm(hot, progress=told.append) == 5
        assert told == [5]
        assert table.loads == before + 5
        assert cold.get_many(hot) == {key: int(key[1:]) for key in hot}
        assert table.loads == before + 5


async def test_it_may_run_twice_and_keeps_to_its_rate(redis_url: str, name: str, table: Table) -> None:
    """What is there is not loaded again; as many loads at once as the policy allows."""
    policy = CachePolicy(loads=10)
    keys = [f"k{number}" for number in range(100)]
    async with EntityCache(name, redis_url, mode="cache", source=table, policy=policy) as cache:
        assert await cache.awarm(keys[:50], rate=100_000) == 50
        assert await cache.awarm(keys, rate=100_000) == 100
        assert table.loads == 100


def test_a_key_that_fails_does_not_stop_the_others(redis_url: str, name: str, table: Table) -> None:
    """It is left for its readers."""

    class Failing(Table):
        def load(self, key: str) -> Loaded[int] | None:
            if key == "k1":
                raise OSError("not this one")
            return table.load(key)

    with EntityCache(name, redis_url, mode="cache", source=Failing()) as cache:
        assert cache.warm(["k0", "k1", "k2"]) == 2
        assert cache.get("k2") == 2


def test_a_redis_that_does_not_count_says_so(redis_url: str, name: str, table: Table) -> None:
    """And which setting would."""
    with EntityCache(name, redis_url, mode="cache", source=table) as cache:
        cache.put("k", 1)
        with pytest.raises(UsageError, match="allkeys-lfu"):
            cache.hot_keys(1)
    with EntityCache[int](name, redis_url) as view, pytest.raises(UsageError, match="nothing to load"):
        view.warm(["k"])


def test_the_commands_print_and_load_hot_keys(
    counting: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hot` prints what `warm --keys` reads."""
    (tmp_path / "hot_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HEADWATER_REDIS_URL", counting.url)
    env = {"HEADWATER_REDIS_URL": counting.url}

    def run(*arguments: str, given: str | None = None) -> str:
        result = CliRunner().invoke(app, arguments, env=env, input=given)
        return result.output if result.exception is None else str(result.exception)

    keys = "".join(f"k{number}\n" for number in range(20))
    assert "20 keys are there" in run("warm", "hot_shop:orders", "--keys", "-", given=keys)
    assert sorted(run("hot", "order", "--top", "20").split()) == sorted(keys.split())
    assert "say which keys" in run("warm", "hot_shop:orders")
    assert "not an EntityCache" in run("warm", "hot_shop:other", "--keys", "-", given="k")
    assert "MODULE:CACHE" in run("warm", "nowhere:orders", "--keys", "-", given="k")
    assert "is a view" in run("warm", "order", "--keys", "-", given="k")
