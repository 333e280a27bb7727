"""The filter of keys that exist, before a cache on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cache.table import Table
from headwater_cache import EntityCache, KeyFilter, VersionToken, cached
from headwater_cache.metrics import BLOOM_FALSE_POSITIVE
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def keys(clock: ManualClock) -> KeyFilter:
    return KeyFilter(10_000, false_positives=0.001, max_lag="5s", clock=clock)


@pytest.fixture
def cache(redis_url: str, name: str, table: Table, keys: KeyFilter, clock: ManualClock) -> Iterator[EntityCache[int]]:
    with EntityCache(name, redis_url, mode="cache", source=table, keys=keys, clock=clock) as cache:
        yield cache


def test_made_up_keys_do_not_reach_the_source(cache: EntityCache[int], keys: KeyFilter, table: Table) -> None:
    """Hardly any: the filter lets one in a thousand pass."""
    for number in range(100):
        table.write(str(number), number)
    keys.add(change.key for change in table.events)
    keys.caught_up()

    assert cache.get_many([f"made up {number}" for number in range(500)]) == {}
    assert table.loads < 10
    assert len(cache.get_many([str(number) for number in range(100)])) == 100


def test_r12_it_rules_nothing_out_before_it_has_caught_up_or_when_it_lags(
    cache: EntityCache[int], keys: KeyFilter, table: Table, clock: ManualClock
) -> None:
    """A filter that does not know everything must not judge (R12)."""
    table.write("a", 1)
    assert cache.get("a") == 1

    keys.caught_up()
    clock.advance(5.1)
    table.write("b", 2)

    assert cache.get("b") == 2


def test_r12_a_writer_adds_its_key_before_it_commits(cache: EntityCache[int], keys: KeyFilter, table: Table) -> None:
    """Nobody of this process is told that the committed row is missing (R12)."""
    keys.caught_up()
    seen = []
    write = table.write

    def committing(key: str, value: int | None) -> int:
        seen.append(keys.may_exist(key))
        return write(key, value)

    table.write = committing  # type: ignore[method-assign]  # looks at the moment of the commit
    cache.put("a", 1)

    assert seen == [True]


def test_a_token_is_not_asked_about(cache: EntityCache[int], keys: KeyFilter, table: Table) -> None:
    """Another process wrote it a moment ago; whoever has its token is served."""
    keys.caught_up()
    token = VersionToken.parse(f"log:0:{table.write('a', 1)}")

    assert cache.get("a") is None
    assert cache.get("a", min_version=token) == 1


def test_a_function_that_is_read_through_the_cache_is_not_judged(cache: EntityCache[int], keys: KeyFilter) -> None:
    """The filter knows the keys of the source; the keys of a cached function are others."""
    keys.caught_up()

    @cached(cache, key="quote:{of}")
    def quote(of: int) -> int | None:
        return 2 * of or None

    before = _false_positives(cache)
    assert cache.get("quote:1") is None
    assert quote(2) == 4
    assert quote(0) is None
    assert _false_positives(cache) == before


def _false_positives(cache: EntityCache[int]) -> float:
    return float(BLOOM_FALSE_POSITIVE.labels(cache.name)._value.get())


def test_a_rebuild_forgets_deleted_keys_and_loses_none(keys: KeyFilter) -> None:
    """The old filter answers until the new one knows the log and what came since."""
    keys.add(["gone", "old"])
    keys.caught_up()
    keys.rebuild()
    keys.add(["new"])
    keys.caught_up()
    assert keys.may_exist("gone")
    keys.add(["old"])
    keys.rebuilt()

    assert [keys.may_exist(key) for key in ("gone", "old", "new")] == [False, True, True]
    with pytest.raises(UsageError):
        keys.rebuilt()


@pytest.mark.parametrize("wrong", [{"expected": 0}, {"expected": 1, "false_positives": 1.0}])
def test_a_filter_has_a_size(wrong: dict[str, Any]) -> None:
    """And a share of errors below one."""
    with pytest.raises(UsageError):
        KeyFilter(**wrong)
