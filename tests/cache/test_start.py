"""What is checked before the first use, and how Redis's refusals read."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import redis

from cache.parts import fixed_space
from cache.redis_server import RedisServer
from headwater_cache import CacheFull, CachePolicy, EntityCache, Loaded, RedisSettings, UnsafeRedis, WrongEpoch
from headwater_cache.testing import MemoryLog
from headwater_cache.versions import ZERO
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import CacheUnavailable, NotPermitted, SettingError, UsageError
from headwater_schemas.settings import Environment


def test_a_view_refuses_a_redis_that_may_evict(own: RedisServer) -> None:
    """An evicted key of a view would read as not found."""
    with own.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")

    with EntityCache[int]("flights", own.url) as cache, pytest.raises(UnsafeRedis, match=r"allkeys-lru.*noeviction"):
        cache.check()


def test_a_wrong_password_says_so(own: RedisServer) -> None:
    """The setting to correct is named, the password is not."""
    with own.client() as client:
        client.config_set("requirepass", "right")

    url = f"redis://:wr0ng@127.0.0.1:{own.port}/0"
    with EntityCache[int]("flights", url) as cache, pytest.raises(NotPermitted, match="HEADWATER_REDIS_URL") as refused:
        cache.check()
    assert "wr0ng" not in str(refused.value)
    assert "wr0ng" not in repr(RedisSettings(url))


@pytest.mark.parametrize(
    "grant", [("~*", "+@all", "-@scripting"), ("~other:*", "+@all")], ids=["no scripts", "other keys"]
)
def test_a_user_who_may_not_run_the_scripts_is_refused_at_start(own: RedisServer, grant: tuple[str, ...]) -> None:
    """Every write is a script: better to know before the first one."""
    with own.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *grant)

    with EntityCache[int]("flights", f"redis://app:pw@127.0.0.1:{own.port}/0") as cache:
        with pytest.raises(NotPermitted, match=r"Lua scripts.*evalsha"):
            cache.check()


def test_a_user_with_the_documented_rights_is_enough(own: RedisServer) -> None:
    """What docs/cache.md says to grant."""
    rights = "~{flights:* ~flights:* -@all +get +mget +set +del +getrange +setrange +pexpire +persist +pttl"
    rights += " +hset +hsetnx +hget +hmget +hgetall +hincrby +evalsha +script|load +info +ping +hello"
    rights += " +client|setinfo +client|setname +select +incr +exists +time +scan +memory|usage"
    with own.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *rights.split())

    log = MemoryLog()
    with EntityCache[int]("flights", f"redis://app:pw@127.0.0.1:{own.port}/0", log=log) as cache:
        cache.mark_ready([0], total=1)
        assert cache.get("UA1") is None
        cache.put("UA1", 1)
        cache.apply_many(log.changes)
        assert cache.touch("UA1")
        assert cache.explain("UA1").watermarks == {"test.changes:0": 1}
        assert cache.stats().states == {"V": 1}
        with cache.lock("report"):
            pass


def test_a_retired_epoch_is_refused(redis_url: str, name: str, raw: redis.Redis) -> None:
    """What a late process would write there is never read."""
    raw.set(f"{name}:epoch", 3)

    with EntityCache[int](name, redis_url, epoch=2) as cache, pytest.raises(WrongEpoch, match=r"epoch 3.*epoch=2"):
        cache.check()


def test_a_full_redis_is_an_error_of_its_own(own: RedisServer) -> None:
    """The caller slows down; nothing is silently dropped."""
    with EntityCache[str]("flights", own.url) as cache, own.client() as client:
        cache.check()
        client.config_set("maxmemory", 1)
        with pytest.raises(CacheFull):
            cache.mark_ready([0], total=1)


def test_a_server_that_lost_its_scripts_gets_them_again(redis_url: str, name: str, raw: redis.Redis) -> None:
    """A restart or failover forgets scripts; nobody notices."""
    with EntityCache[int](name, redis_url) as cache:
        cache.check()
        raw.script_flush()

        assert cache.touch("UA1") is False


def test_a_black_hole_costs_one_timeout() -> None:
    """redis-py as it comes hung for 25 s on one; a read here ends within its budget."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()  # connects, and never answers
        settings = RedisSettings(f"redis://127.0.0.1:{hole.getsockname()[1]}", timeout=0.1)
        with EntityCache[int]("flights", settings) as cache:
            began = time.monotonic()
            with pytest.raises(CacheUnavailable):
                cache.get("UA1")
            assert time.monotonic() - began < 0.5


def test_a_dead_redis_is_unavailable_and_a_late_one_is_found(tmp_path: Path) -> None:
    """The checks of the first use are made whenever Redis comes."""
    server = RedisServer(tmp_path)
    server.kill()
    with EntityCache[int]("flights", server.url, cold="miss") as cache:
        with pytest.raises(CacheUnavailable):
            cache.get("UA1")

        server.start()

        assert cache.get("UA1") is None
    server.kill()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://127.0.0.1"}, "redis://"),
        ({"url": "redis://127.0.0.1", "timeout": 60}, "300ms"),
        ({"url": "redis://127.0.0.1", "retries": 10}, "0 to 3"),
        ({"url": "redis://:secret@127.0.0.1:notaport"}, "the port"),
        ({"url": "redis://:p#ss@127.0.0.1:6379"}, "percent-encoded"),
        ({"url": "redis://[::1:6379"}, "bracket"),
        ({"url": "redis://127.0.0.1/x"}, "as in /0"),
        ({"url": "redis+sentinel://127.0.0.1:1,127.0.0.1:2/service/x"}, "as in /service/0"),
    ],
)
def test_settings_say_what_to_pass(settings: dict[str, object], message: str) -> None:
    """A wrong setting is refused where it is made."""
    with pytest.raises(SettingError, match=message) as refused:
        RedisSettings(**settings)  # type: ignore[arg-type]  # the wrong types are the point
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"negative_ttl": 0}, "negative_ttl is 0"),
        ({"lease_ttl": 0}, "lease_ttl is 0"),
        ({"tombstone_ttl": 0}, "tombstone_ttl is 0"),
        ({"hard_ttl": 0.0004, "soft_ttl": 0}, "0 or at least 1ms"),
        ({"refreshes": -1}, "refreshes=-1"),
        ({"early": -5}, "early=-5"),
        ({"early": float("nan")}, "early=nan"),
    ],
)
def test_a_policy_says_what_to_pass(policy: dict[str, float], message: str) -> None:
    """To Redis a life of 0 ms is for ever; a negative rate or strength means nothing."""
    with pytest.raises(UsageError, match=message):
        CachePolicy(**policy)  # type: ignore[arg-type]  # their names are the point


def test_what_expires_is_never_kept_for_ever() -> None:
    """Also when the jitter takes nearly all of its life."""
    policy = CachePolicy(negative_ttl="1ms", jitter=0.999)
    space = fixed_space("flights", "cache", policy, ManualClock())

    assert all(int(space.entry("N", ZERO)[1]) > 0 for _ in range(1000))


def test_a_cache_is_made_from_the_environment(redis_url: str, name: str) -> None:
    """HEADWATER_REDIS_URL and HEADWATER_REDIS_TIMEOUT are all it takes."""
    env = Environment({"HEADWATER_REDIS_URL": redis_url})
    with EntityCache[int].from_env(name, env) as cache:
        cache.check()
        with pytest.raises(UsageError, match="log="):
            cache.put("UA1", 1)


def test_explain_tells_the_whole_story_of_a_key(redis_url: str, name: str, raw: redis.Redis) -> None:
    """State, version, lease and what was refused."""
    log = MemoryLog()
    with EntityCache[int](name, redis_url, log=log) as cache:
        token = cache.put("UA1", 7)
        cache.apply_many(log.changes)
        found = cache.explain("UA1")
        missing = cache.explain("UA2")

    assert (found.verdict, found.state, found.version) == ("fresh", "V", str(token))
    assert found.watermarks == {"test.changes:0": 1}
    assert found.lease is None
    assert (missing.verdict, missing.state, missing.ready) == ("absent", None, (0, 0))


def test_explain_knows_what_a_tag_has_ended(redis_url: str, name: str) -> None:
    """As a reader does."""
    with EntityCache[int](name, redis_url, mode="cache") as cache:
        cache.load("UA1", lambda: Loaded(1, 1, ("carrier:UA",)))
        assert cache.explain("UA1").verdict == "fresh"
        cache.invalidate_tags("carrier:UA")
        found = cache.explain("UA1")

    assert (found.verdict, found.state) == ("invalidated", "V")
    assert "tag" in found.meaning


def test_explain_names_who_holds_the_lease(redis_url: str, name: str) -> None:
    """Host and process, to look for a load that does not end; not the same for two leases of one process."""
    holders: set[str | None] = set()
    with EntityCache[int](name, redis_url, mode="cache") as cache:

        def load(key: str) -> int:
            holders.add(cache.explain(key).lease)
            return 1

        for key in ("UA1", "UA2"):
            cache.load(key, load, key)

    assert len(holders) == 2
    for holder in holders:
        assert (holder or "").startswith(f"{socket.gethostname()[:64]}:{os.getpid()}:")
