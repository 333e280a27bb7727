"""Bad input, one by one: it is refused with an error that says what to pass, or it simply works; nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import redis

from cache.table import Table
from headwater_cache import (
    CachePolicy,
    EntityCache,
    InvalidKey,
    Loaded,
    MsgpackValues,
    NearPolicy,
    Reading,
    SourceFailed,
    VersionToken,
    log_version,
    version,
)
from headwater_cache.testing import MemoryLog
from headwater_cache.versions import ZERO
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import NotDecodable, SchemaMismatch, UsageError

ODD_KEYS = {
    "spaces": " two  words ",
    "NUL": "a\0b",
    "line ends": "a\r\nGET b\r\n",
    "braces": "a}b{c",
    "looks like a lease": "a}:l",
    "colons": "a:b:",
    "not ASCII": "Zürich ✈ 東京",
    "glob": "*",
    "as long as allowed": "k" * 512,
    "as long as allowed in bytes": "ü" * 256,
}


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def view(redis_url: str, name: str, log: MemoryLog) -> Iterator[EntityCache[int]]:
    with EntityCache[int](name, redis_url, log=log, near=NearPolicy()) as cache:
        yield cache


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
def test_any_text_is_a_key(view: EntityCache[int], log: MemoryLog, key: str) -> None:
    """As it is: written, applied, read, explained, deleted, and mistaken for no other."""
    view.put("a", 1)
    view.put(key, 2)
    view.apply_many(log.changes)

    assert view.get_many(["a", key]) == {"a": 1, key: 2}
    assert view.get(key) == 2
    explained = view.explain(key)
    assert (explained.key, explained.state, explained.lease) == (key, "V", None)
    with view.lock(key):
        view.delete(key)
    assert view.get(key) is None
    assert view.get("a") == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "not empty"),
        ("k" * 10_240, "512 bytes"),
        ("ü" * 257, "512 bytes"),
        ("\ud800", "surrogate"),
        (b"bytes", "text"),
        (7, "text"),
        (None, "text"),
    ],
    ids=["empty", "10 KB", "bytes count", "surrogate", "bytes", "number", "None"],
)
def test_what_is_no_key_is_refused_everywhere(view: EntityCache[int], log: MemoryLog, key: str, message: str) -> None:
    """By reads, writes, explain and lock alike, before the truth has anything of it."""
    for operation in (view.get, view.delete, view.explain, view.touch, view.lock):
        with pytest.raises(InvalidKey, match=message):
            operation(key)
    with pytest.raises(InvalidKey, match=message):
        view.put(key, 1)
    with pytest.raises(InvalidKey, match=message):
        view.get_many(["a", key])
    assert log.changes == []


@pytest.mark.parametrize("number", [-1, 2**64, 1.5, True, None, "-3", "7", "0/", "zz/1"])
def test_what_is_no_version_is_refused(number: int) -> None:
    """Negative, beyond 64 bits, and whatever is not a whole number."""
    with pytest.raises(UsageError, match="no version"):
        version(number)


def test_r30_versions_up_to_64_bits_keep_their_order() -> None:
    """Beyond 2^53 a Lua number would lose bits, beyond 2^63 an SQL bigint ends; text compares all of them (R30)."""
    numbers = [0, 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]
    assert sorted(map(version, reversed(numbers))) == list(map(version, numbers))


def test_version_0_is_older_than_everything(redis_url: str, name: str, table: Table) -> None:
    """It stands for no version at all: any event replaces it, and it replaces nothing."""
    with EntityCache(name, redis_url, mode="cache", source=table) as cache:
        assert cache.load("k", lambda: Loaded(0, 0)) == Reading(0, ZERO)
        (outcome,) = cache.apply_many([table.event("k", 1, 1)], positions={})
        assert outcome.outcome == "applied"
        (outcome,) = cache.apply_many([table.event("k", 0, 0)], positions={})
        assert outcome.outcome == "stale"
        assert cache.get("k") == 1


@pytest.mark.parametrize("number", [-1, 2**64, "x"])
def test_a_source_that_gives_no_version_is_told_so_and_nothing_is_cached(
    redis_url: str, name: str, number: int, raw: redis.Redis
) -> None:
    """By a load and by a write; no lease stays behind."""

    class Wrong(Table):
        def load(self, key: str) -> Loaded[int]:
            return Loaded(1, number)

        def write(self, key: str, value: int | None) -> int:
            return number

    with EntityCache(name, redis_url, mode="cache", source=Wrong()) as cache:
        with pytest.raises(UsageError, match="no version"):
            cache.get("k")
        with pytest.raises(UsageError, match="no version"):
            cache.put("k", 1)
        assert raw.keys(f"{{{name}:1:*") == []


@pytest.mark.parametrize("text", ["", "log", "log:1", "log:1:x", "log:-1:2", f"log:1:{2**64}", "LOG:1:2", "a b:1:2"])
def test_what_is_no_token_is_refused(text: str) -> None:
    """Tokens come back from clients, in headers and cookies."""
    with pytest.raises(UsageError):
        VersionToken.parse(text)


def test_a_token_of_another_domain_is_refused(view: EntityCache[int]) -> None:
    """Its versions do not compare."""
    with pytest.raises(UsageError, match="do not compare"):
        view.get("a", min_version=VersionToken("lsn", log_version(0, 1)))


class Old(msgspec.Struct):
    delay: int


class New(msgspec.Struct):
    delay: int
    gate: str


class Gates:
    """The same rows, as a newer release reads them."""

    def __init__(self) -> None:
        self.loads = 0
        self.error: Exception | None = None

    def load(self, key: str) -> Loaded[New]:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return Loaded(New(4, "B7"), 1)

    def write(self, key: str, value: New | None) -> int:
        raise NotImplementedError


def test_a_view_names_an_entry_of_another_schema(redis_url: str, name: str, log: MemoryLog) -> None:
    """There is nowhere to read it anew from: replay the topic with the new schema, or read the old one."""
    with EntityCache[Old](name, redis_url, log=log, values=MsgpackValues(Old)) as before:
        before.put("k", Old(4))
    with EntityCache[New](name, redis_url, values=MsgpackValues(New)) as after:
        with pytest.raises(SchemaMismatch, match="gate"):
            after.get("k")


@pytest.mark.parametrize("soft", [300, 0.001], ids=["fresh", "soft-expired"])
def test_a_cache_loads_anew_what_an_older_release_wrote(redis_url: str, name: str, soft: float) -> None:
    """Both releases go on during the roll-out, each with what it can read."""

    clock, gates = ManualClock(), Gates()
    policy = CachePolicy(soft_ttl=soft, jitter=0)
    with EntityCache[Old](name, redis_url, mode="cache", values=MsgpackValues(Old), policy=policy, clock=clock) as old:
        old.load("k", lambda: Loaded(Old(4), 1))
    clock.advance(1)
    with EntityCache[New](
        name, redis_url, mode="cache", values=MsgpackValues(New), source=gates, policy=policy, clock=clock
    ) as new:
        gates.error = OSError("away")
        with pytest.raises(SourceFailed):
            new.get("k")
        gates.error = None
        assert new.get("k") == New(4, "B7")
        assert gates.loads == 2


def test_what_another_program_wrote_is_named(view: EntityCache[int], raw: redis.Redis, name: str) -> None:
    """Another type, or bytes that are no entry; neither is overwritten."""
    view.put("a", 1)
    raw.rpush(f"{{{name}:1:list}}", 1)
    raw.set(f"{{{name}:1:text}}", "hello")

    with pytest.raises(UsageError, match="another type"):
        view.get("list")
    with pytest.raises(NotDecodable, match="hello"):
        view.get("text")
    assert raw.get(f"{{{name}:1:text}}") == b"hello"


@pytest.mark.parametrize("skew", [-7200, 7200], ids=["behind", "ahead"])
def test_a_skewed_clock_costs_loads_and_never_correctness(redis_url: str, name: str, table: Table, skew: float) -> None:
    """Versions order writes, not clocks. A reader that is ahead takes entries for expired, one behind for fresh."""
    clock, skewed = ManualClock(), ManualClock(1_700_000_000.0 + skew)
    policy = CachePolicy(jitter=0, early=0)
    with (
        EntityCache(name, redis_url, mode="cache", source=table, policy=policy, clock=clock) as one,
        EntityCache(name, redis_url, mode="cache", source=table, policy=policy, clock=skewed) as other,
    ):
        for value in range(3):
            one.put("k", value)
            assert other.get("k") == value
            other.put("k", value + 10)
            assert one.get("k") == value + 10
        one.apply_many(table.events, positions={})
        other.apply_many(list(reversed(table.events)), positions={})
        assert one.get("k") == other.get("k") == table.rows["k"][0]
