"""Reading a cache: a miss loads from the source, once over all processes, and waiters do not spin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from headwater_cache.applier import OUTCOMES
from headwater_cache.bulkhead import Bulkhead
from headwater_cache.changes import ApplyOutcome
from headwater_cache.entry import SEEN_SIZE, Entry, glance, unpack
from headwater_cache.errors import NoFreeConnection, NotVisibleYet, SourceBusy, SourceFailed
from headwater_cache.filter import KeyFilter
from headwater_cache.flights import Abandoned, Flights
from headwater_cache.metrics import (
    APPLY,
    BLOOM_BYPASS,
    BLOOM_FALSE_POSITIVE,
    BULKHEAD_REJECTED,
    LEASE,
    LOAD_SECONDS,
    VERSION_CONFLICT,
)
from headwater_cache.probation import Probation
from headwater_cache.reads import Reading, Unstored, Verdict, fetch_many, judge, needed, request_counters
from headwater_cache.refreshes import Refreshes
from headwater_cache.scripts import APPLY as APPLY_SCRIPT
from headwater_cache.scripts import PASS, apply_args
from headwater_cache.source import Loaded
from headwater_cache.space import Space
from headwater_cache.steps import Call, Gather, Join, Pause, Read, Spawn, Step, evaluate
from headwater_cache.tags import check_tags, holds, tag_clock
from headwater_cache.values import ValueCodec
from headwater_cache.versions import ZERO, VersionToken, version
from headwater_cache.wants import Found, Load, Want
from headwater_cache.writes import acquire, lease_token, release
from headwater_schemas.errors import BadRecord, CacheUnavailable, HeadwaterError, Overloaded, UsageError

__all__ = ["SourceReads"]

_log = logging.getLogger(__name__)

V = TypeVar("V")
_STORED: tuple[ApplyOutcome | None, ...] = ("applied", "created", "refreshed", "equal")


class SourceReads(Generic[V]):
    """The read path of a cache."""

    def __init__(self, space: Space, values: ValueCodec[V], load: Load | None, keys: KeyFilter | None = None) -> None:
        policy = space.policy
        self._space = space
        self._values = values
        self._source = load
        self._keys = keys
        self._requests = request_counters(space.name, "redis")
        self._bulkhead = Bulkhead(space.name, policy.loads, policy.seconds_of("wait"))
        self._flights: Flights[Found[V]] = Flights()
        self._probation = Probation(space.clock)
        self._refreshes = Refreshes(space)

    # Entry points

    def read(self, key: str, min_version: VersionToken | None, max_staleness: float | None) -> Step[Reading[V]]:
        """Read through the source of the cache."""
        return (yield from self._read(self._want(key, min_version, max_staleness)))

    def through(self, key: str, load: Load, args: tuple[Any, ...]) -> Step[Reading[V]]:
        """Read through a function given with the call."""
        return (yield from self._read(Want(key, load, args)))

    def read_many(self, keys: Sequence[str]) -> Step[list[Reading[V]]]:
        """One round trip for all; what is missing is loaded side by side (asyncio) or in turn (threads)."""
        wants = [self._want(key, None, None) for key in keys]
        try:
            replies = yield from self._fetch(keys)
        except HeadwaterError as exc:
            steps = [self._unread(want, exc) for want in wants]
        else:
            steps = [self._settle(want, data) for want, data in zip(wants, replies, strict=True)]
        readings: list[Reading[V]] = []
        width = self._space.policy.loads
        for start in range(0, len(steps), width):  # no more at once than the bulkhead takes
            readings += yield Gather([self._counted(step) for step in steps[start : start + width]])
        return readings

    def _fetch(self, keys: Sequence[str]) -> Step[list[bytes | None]]:
        space = self._space
        names = [space.key(key) for key in keys]
        if self._probation.silent:
            raise CacheUnavailable("Redis did not answer a moment ago")
        if space.due():
            yield from space.look(Read)
            names = [space.key(key) for key in keys]
        return (yield from fetch_many(names, space.cluster, Read))

    def _want(self, key: str, min_version: VersionToken | None, max_staleness: float | None) -> Want:
        limit = None if max_staleness is None else round(max_staleness * 1000)
        return Want(key, self._source, (key,), needed(min_version, self._space.domain), limit)

    # Reading

    def _counted(self, step: Step[Found[V]]) -> Step[Reading[V]]:
        """Each read counts once, by how its caller was answered."""
        try:
            found = yield from step
        except Exception:
            self._requests["error"].inc()
            raise
        self._requests[found.result].inc()
        return found.reading

    def _read(self, want: Want) -> Step[Reading[V]]:
        space = self._space
        if self._probation.silent:
            yield from self._probation.ping()
            return (yield from self._counted(self._bypass(want)))
        try:
            if space.due():
                yield from space.look(Read)
            data = yield Read(("GET", space.key(want.key)))
        except HeadwaterError as exc:
            return (yield from self._counted(self._unread(want, exc)))
        if data is not None and want.min_version is None and want.max_staleness is None:
            plain = glance(data, space.domain_bytes)
            if plain is not None:
                version, soft, hard, load_ms, schema_id, payload = plain
                expiry = soft or hard
                if not expiry or expiry - space.now_ms() > self._refreshes.early(load_ms):
                    try:
                        value = self._values.decode(schema_id, payload)
                    except BadRecord:
                        return (yield from self._counted(self._miss(want, data, None)))
                    self._requests["hit"].inc()
                    return Reading(value, version)
        return (yield from self._counted(self._settle(want, data)))

    def _unread(self, want: Want, exc: HeadwaterError) -> Step[Found[V]]:
        """Redis did not give the entry: the source stands in for one that is away."""
        if not isinstance(exc, CacheUnavailable | Overloaded):
            raise exc
        _expect_away(exc)
        yield from self._probation.begin()
        return (yield from self._bypass(want))

    def _bypass(self, want: Want) -> Step[Found[V]]:
        """Redis is away: the source answers, once per key and process, inside the bulkhead; nothing is stored."""
        return (yield from self._board(want, self._unstored(want), None))._replace(result="bypass")

    def _settle(self, want: Want, data: bytes | None) -> Step[Found[V]]:
        entry = yield from self._unpack(data)
        now = self._space.now_ms()
        verdict = judge(entry, self._space.domain, now)
        found = self._answer(want, entry, verdict, now)
        if found is None:
            return (yield from self._miss(want, data, entry))
        if data is not None and entry is not None and self._refreshes.wanted(entry, verdict, now):
            yield from self._refresh_behind(want, data)
        return found

    def _unpack(self, data: bytes | None) -> Step[Entry | None]:
        """What is there. ``None`` also if one of its tags was invalidated: it is not even a stale value."""
        entry = unpack(data) if data else None
        if entry is not None and entry.domain != self._space.domain:
            VERSION_CONFLICT.labels(self._space.name).inc()
        if entry is not None and entry.tags and not (yield from self._holds(entry)):
            return None
        return entry

    def _answer(self, want: Want, entry: Entry | None, verdict: Verdict, now: int) -> Found[V] | None:
        """What may be served of this entry; ``None`` = it takes a load."""
        if entry is None or verdict in ("fence", "expired"):
            return None
        if want.min_version is not None and (entry.version < want.min_version or entry.state == "N"):
            return None
        age = now - entry.written_at + entry.load_ms  # the source was read when the load began, not when it ended
        if want.max_staleness is not None and age > want.max_staleness:
            return None
        if verdict == "negative":
            return Found(Reading(None, None if entry.state == "N" else entry.version), "negative")
        try:
            value = self._values.decode(entry.schema_id, entry.payload)
        except BadRecord:  # another release of the service wrote it in another shape: the source is asked
            return None
        return Found(Reading(value, entry.version), "hit")

    # Tags. A Redis that goes away between two commands of a read only makes it load.

    def _holds(self, entry: Entry) -> Step[bool]:
        try:
            return (yield from holds(self._space, entry))
        except (CacheUnavailable, Overloaded) as exc:
            _expect_away(exc)
            return False

    def _tag_clock(self) -> Step[int]:
        try:
            return (yield from tag_clock(self._space))
        except (CacheUnavailable, Overloaded):
            return 0

    # Missing

    def _miss(self, want: Want, data: bytes | None, entry: Entry | None) -> Step[Found[V]]:
        """One flight per process; who waits is served stale if allowed, else waits, else may pass to the source."""
        if want.load is None:
            if want.min_version is not None:
                raise NotVisibleYet(
                    f"{want.key!r} of {self._space.name}: the token's version is not here, and there is "
                    "no source to ask for it"
                )
            return Found(Reading(None), "miss")
        if data is None and want.min_version is None and self._rules_out(want):
            return Found(Reading(None), "negative")
        deadline = self._space.clock.monotonic() + self._space.policy.seconds_of("wait")
        return (yield from self._board(want, self._lease(want, data, entry, deadline), entry))

    def _board(self, want: Want, load: Step[Found[V]], entry: Entry | None) -> Step[Found[V]]:
        """Run ``load``, unless this process is loading the key already: then wait for that.

        Who limits the staleness shares flights only with those of the same limit: what another accepts may be too old.
        """
        came = self._space.clock.monotonic()
        deadline = came + self._space.policy.seconds_of("wait")
        which = (want.key, want.max_staleness)
        while True:
            flight, pilot = self._flights.board(which)
            if pilot:
                return self._checked(want, (yield from self._fly(which, load)))
            stale = self._stale(want, entry)
            if stale is not None:
                return stale
            try:
                found: Found[V] = yield Join(flight, max(0.0, deadline - self._space.clock.monotonic()))
            except Abandoned:
                continue
            except TimeoutError:
                return self._checked(want, (yield from self._pass(want)))
            if self._serves(want, found, came):
                return found._replace(reading=Unstored(*found.reading))

    def _fly(self, which: tuple[str, int | None], load: Step[Found[V]]) -> Step[Found[V]]:
        began = self._space.clock.monotonic()
        try:
            found = (yield from load)._replace(began=began)
        except BaseException as exc:
            self._flights.crash(which, exc)
            raise
        self._flights.land(which, found)
        return found

    def _serves(self, want: Want, found: Found[V], came: float) -> bool:
        """Whether what another loaded answers this caller too. One that began later is as good as a load of its own."""
        if found.began > came:
            return found.none_at_source or want.allows(found.reading)
        limit = want.max_staleness
        if limit is not None and self._space.clock.monotonic() - found.began > limit / 1000:
            return False
        return want.allows(found.reading)

    def _checked(self, want: Want, found: Found[V]) -> Found[V]:
        """What this caller's own load gave. No row at the source satisfies any token: also that of a delete."""
        if found.none_at_source or want.allows(found.reading):
            return found
        raise NotVisibleYet(
            f"{want.key!r}: the source of {self._space.name} lags: it gave a version older than the token's, or than "
            "one that Redis has heard of"
        )

    def _lease(self, want: Want, data: bytes | None, entry: Entry | None, deadline: float) -> Step[Found[V]]:
        """One lease over all processes. Asking for it again is also how its other holders are waited for."""
        space = self._space
        token, pause, waited = lease_token(), 0.01, False
        while True:
            try:
                reply = yield from acquire(space, want.key, token, (data or b"")[:SEEN_SIZE])
            except (CacheUnavailable, Overloaded) as exc:
                _expect_away(exc)
                return (yield from self._unstored(want))._replace(result="bypass")
            if reply[0] == b"g":
                LEASE.labels(space.name, "granted").inc()
                return (yield from self._fill(want, token, entry))
            if reply[0] == b"c":
                data = reply[1] or None
                entry = yield from self._unpack(data)
                now = space.now_ms()
                found = self._answer(want, entry, judge(entry, space.domain, now), now)
                if found is not None:
                    return found
                continue
            if not waited:
                waited = True
                LEASE.labels(space.name, "waited").inc()
            stale = self._stale(want, entry)
            if stale is not None:
                return stale
            if space.clock.monotonic() >= deadline:
                return (yield from self._pass(want))
            yield Pause(pause * space.random.uniform(0.5, 1.0))
            pause = min(2 * pause, 0.1)

    def _fill(self, want: Want, token: str, entry: Entry | None) -> Step[Found[V]]:
        """Load under the lease, then apply: the script refuses it if anything newer came in between."""
        try:
            reading, data, life = yield from self._load(want, (yield from self._tag_clock()))
        except GeneratorExit:
            raise
        except BaseException as exc:
            yield from release(self._space, want.key, token)
            stale = self._stale(want, entry) if isinstance(exc, SourceFailed | SourceBusy) else None
            if stale is None:
                raise
            return stale
        outcome = yield from self._apply(want.key, token, data, life)
        if outcome == "stale":  # a fence knows better than what the source gave: it lags
            reading = reading._replace(stale=True)
        return Found(reading if outcome in _STORED else Unstored(*reading), "miss")

    def _load(self, want: Want, tag_clock: int) -> Step[tuple[Reading[V], bytes, str]]:
        began = self._space.clock.monotonic()
        loaded = yield from self._call(want)
        load_ms = round((self._space.clock.monotonic() - began) * 1000)
        if loaded is None:
            if self._keys is not None and want.load is self._source and self._keys.ready:
                BLOOM_FALSE_POSITIVE.labels(self._space.name).inc()
            return (Reading[V](None), *self._space.entry("N", ZERO, load_ms=load_ms))
        if not isinstance(loaded, Loaded):
            loaded = Loaded(loaded, ZERO)
        of, value = version(loaded.version), loaded.value
        tags = dict.fromkeys(check_tags(loaded.tags), tag_clock)
        schema_id, payload = self._values.encode(value)
        entry = self._space.entry("V", of, self._space.check_size(payload), schema_id, load_ms=load_ms, tags=tags)
        return (Reading(value, of), *entry)

    def _call(self, want: Want) -> Step[Any]:
        """Ask the source, inside the bulkhead."""
        load = want.load
        if load is None:
            return None
        yield from self._bulkhead.enter()
        try:
            with LOAD_SECONDS.labels(self._space.name).time():
                return (yield Call(load, want.args))
        except UsageError:
            raise
        except Exception as exc:
            raise SourceFailed(f"the source of {self._space.name} failed for {want.key!r}: {exc!r}") from exc
        finally:
            self._bulkhead.leave()

    def _apply(self, key: str, token: str, data: bytes, life: str) -> Step[ApplyOutcome | None]:
        space = self._space
        try:
            args = apply_args("L", False, space.fence_ms, [data, token, life])
            letters = yield from evaluate(APPLY_SCRIPT, [space.key(key)], args)
        except (CacheUnavailable, Overloaded):
            APPLY.labels(space.name, "load", "failed").inc()
            return None
        outcome = OUTCOMES[letters[0]]
        APPLY.labels(space.name, "load", outcome).inc()
        if outcome == "lease_lost":
            LEASE.labels(space.name, "lost").inc()
        return outcome

    def _rules_out(self, want: Want) -> bool:
        """Whether the key filter knows that the source has no such key. Of other functions it knows nothing."""
        if self._keys is None or want.load is not self._source:
            return False
        if not self._keys.ready:
            BLOOM_BYPASS.labels(self._space.name).inc()
            return False
        return not self._keys.may_exist(want.key)

    # Without a lease

    def _pass(self, want: Want) -> Step[Found[V]]:
        """The wait is over: a few go to the source without storing, the rest get ``SourceBusy``."""
        space, policy = self._space, self._space.policy
        try:
            args: list[str | bytes] = [str(policy.passers), str(policy.milliseconds("lease_ttl"))]
            may_pass = yield from evaluate(PASS, [space.key(want.key)], args)
        except (CacheUnavailable, Overloaded) as exc:
            _expect_away(exc)
            return (yield from self._unstored(want))
        if not may_pass:
            BULKHEAD_REJECTED.labels(space.name).inc()
            raise SourceBusy(
                f"{want.key!r} of {space.name} is being loaded by another for more than {policy.wait} s, and "
                f"{policy.passers} others (CachePolicy.passers) have already gone to the source for it"
            )
        return (yield from self._unstored(want))

    def _unstored(self, want: Want) -> Step[Found[V]]:
        reading, _, _ = yield from self._load(want, 0)
        return Found(Unstored(*reading), "miss")

    def _stale(self, want: Want, entry: Entry | None) -> Found[V] | None:
        """The expired value, if this caller and the policy accept one."""
        space = self._space
        if want.min_version is not None or want.max_staleness is not None or entry is None or entry.state != "V":
            return None
        limit = entry.hard + space.policy.milliseconds("stale_if_error")
        if entry.domain != space.domain or (entry.hard and space.now_ms() > limit):
            return None
        try:
            value = self._values.decode(entry.schema_id, entry.payload)
        except BadRecord:
            return None
        return Found(Reading(value, entry.version, stale=True), "stale")

    # Refreshing

    def _refresh_behind(self, want: Want, data: bytes) -> Step[None]:
        if want.load is not None and self._refreshes.begin(want.key):
            yield Spawn(self._refresh(Want(want.key, want.load, want.args), data))

    def _refresh(self, want: Want, data: bytes) -> Step[None]:
        """Load once more under a lease, if nobody else does. A failure only means that the next reader tries again."""
        token = lease_token()
        try:
            reply = yield from acquire(self._space, want.key, token, data[:SEEN_SIZE])
            if reply[0] == b"g":
                LEASE.labels(self._space.name, "granted").inc()
                yield from self._fill(want, token, None)
        except HeadwaterError as exc:
            _log.warning("%s: %r was not refreshed: %s", self._space.name, want.key, exc)
        finally:
            self._refreshes.end(want.key)


def _expect_away(exc: Exception) -> None:
    """The source stands in for a Redis that can not be asked, not for one that has too many callers at once."""
    if isinstance(exc, NoFreeConnection):
        raise exc
