"""Reading a view: Redis holds every key of the log, so what is absent is not found, once the view has caught up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from prometheus_client import Counter as CounterMetric

from headwater_cache.entry import Entry, glance, unpack
from headwater_cache.errors import NotVisibleYet, ViewNotReady
from headwater_cache.metrics import REQUESTS, VERSION_CONFLICT
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Batch, Pause, Step
from headwater_cache.values import ValueCodec
from headwater_cache.versions import Version, VersionToken
from headwater_schemas.errors import UsageError

__all__ = ["Reading", "Result", "Unstored", "Verdict", "ViewReads", "judge"]

V = TypeVar("V")
Result = Literal["hit", "stale", "negative", "miss", "bypass", "error"]
"""How a read was answered: by Redis, with an expired value, not found without asking the source, by the source, by the
source because Redis is away, not at all."""
Verdict = Literal["fresh", "soft", "negative", "fence", "expired", "absent"]

READY_SECONDS = 1.0
"""For so long a process believes that the view is ready after it has seen it."""


class Reading(NamedTuple, Generic[V]):
    """What a read found.

    Args:
        value: ``None`` = not found.
        version: of the value or of its deletion; ``None`` = none known.
        stale: served past its expiry because the source failed or another process is loading it.
    """

    value: V | None
    version: Version | None = None
    stale: bool = False


class Unstored(Reading[V]):
    """A reading that Redis was not given, or that another reader's load brought. No near cache keeps it: Redis tells of
    no change of what it does not hold, and what changed during a load that began earlier was told before."""


def judge(entry: Entry | None, domain: str, now: int) -> Verdict:
    """What an entry is worth at ``now`` (ms since the epoch). Another version domain counts as a fence."""
    if entry is None:
        return "absent"
    if entry.state == "F" or entry.domain != domain:
        return "fence"
    if entry.hard and now >= entry.hard:
        return "expired"
    if entry.state != "V":
        return "negative"
    return "soft" if entry.soft and now >= entry.soft else "fresh"


class ViewReads(Generic[V]):
    """The read path of a view. ``cold`` says what an absent key means before the view is ready."""

    def __init__(self, space: Space, values: ValueCodec[V], cold: Literal["raise", "miss"]) -> None:
        self._space = space
        self._values = values
        self._cold = cold
        self._ready_until = 0.0
        self._requests = request_counters(space.name, "redis")

    def read(self, key: str, min_version: VersionToken | None, max_staleness: float | None) -> Step[Reading[V]]:
        """Read one key, waiting for a version that is known to exist but not here yet."""
        space = self._space
        if space.due():
            yield from space.look()
        name = space.key(key)
        data = yield Ask(("GET", name))
        if data is not None and min_version is None and max_staleness is None:
            plain = glance(data, space.domain_bytes)
            if plain is not None:
                version, _, _, _, schema_id, payload = plain
                value = self._values.decode(schema_id, payload)
                self._requests["hit"].inc()
                return Reading(value, version)
        need = needed(min_version, space.domain)
        if max_staleness is not None:
            yield from self._check_lag(max_staleness)
        return (yield from self._settle(key, name, data, need))

    def read_many(self, keys: Sequence[str]) -> Step[list[Reading[V]]]:
        """Read several keys in one round trip."""
        space = self._space
        if space.due():
            yield from space.look()
        names = [space.key(key) for key in keys]
        replies = yield from fetch_many(names, space.cluster)
        looked = None in replies
        if looked and (yield from self._moved(keys[0], names[0])):
            return (yield from self.read_many(keys))
        readings = []
        for key, name, data in zip(keys, names, replies, strict=True):
            readings.append((yield from self._settle(key, name, data, None, looked)))
        return readings

    def _settle(
        self, key: str, name: str, data: bytes | None, need: Version | None, looked: bool = False
    ) -> Step[Reading[V]]:
        """What an entry amounts to. ``looked``: at the live epoch, since the entry was read."""
        space = self._space
        deadline = 0.0
        pause = 0.004
        while True:
            entry = unpack(data) if data is not None else None
            verdict = judge(entry, space.domain, 0)
            if entry is None and need is None:
                if not looked and (yield from self._moved(key, name)):
                    return (yield from self.read(key, None, None))
                return (yield from self._absent(key))
            if entry is not None and verdict != "fence" and (need is None or entry.version >= need):
                return self._serve(entry, verdict)
            now = space.clock.monotonic()
            deadline = deadline or now + space.policy.seconds_of("wait")
            if now >= deadline:
                raise self._not_yet(key, entry, need)
            yield Pause(pause * space.random.uniform(0.5, 1.0))
            pause = min(pause * 2, 0.05)
            data, looked = (yield Ask(("GET", name))), False

    def _serve(self, entry: Entry, verdict: Verdict) -> Reading[V]:
        if verdict == "negative":
            self._requests["negative"].inc()
            return Reading(None, entry.version)
        value = self._values.decode(entry.schema_id, entry.payload)
        self._requests["hit"].inc()
        return Reading(value, entry.version)

    def _moved(self, key: str, name: str) -> Step[bool]:
        """Whether another epoch went live since ``name`` was read. That one may have been dropped, keys and all."""
        if self._space.fixed_epoch is not None:
            return False
        yield from self._space.look()
        return self._space.key(key) != name

    def _absent(self, key: str) -> Step[Reading[V]]:
        if self._cold == "raise":
            yield from self._check_ready(key)
        self._requests["miss"].inc()
        return Reading(None)

    def _not_yet(self, key: str, entry: Entry | None, need: Version | None) -> NotVisibleYet:
        space = self._space
        self._requests["error"].inc()
        if entry is not None and entry.domain != space.domain:
            VERSION_CONFLICT.labels(space.name).inc()
            return NotVisibleYet(
                f"{key!r} of {space.name} has version domain {entry.domain!r}, this cache {space.domain!r}"
            )
        what = "the version of the token" if need is not None else "a newer version"
        return NotVisibleYet(f"{key!r} of {space.name}: {what} exists and has not arrived in {space.policy.wait} s")

    def _check_ready(self, key: str) -> Step[None]:
        now = self._space.clock.monotonic()
        if now < self._ready_until:
            return
        stamps = yield from self._stamps()
        if stamps is None:
            self._requests["error"].inc()
            raise ViewNotReady(
                f"{key!r} is not in {self._space.name}, but the view has not caught up with its log, so that says "
                "nothing; let the cache sync run (mark_ready), or pass cold='miss'"
            )
        self._ready_until = now + READY_SECONDS

    def _check_lag(self, limit: float) -> Step[None]:
        stamps = yield from self._stamps()
        lag = None if stamps is None else self._space.clock.time() - min(stamps) / 1000
        if lag is None or lag > limit:
            self._requests["error"].inc()
            raise NotVisibleYet(
                f"{self._space.name} was last seen at the end of its log {lag} s ago, more than {limit} s"
            )

    def _stamps(self) -> Step[list[int] | None]:
        """When each partition was last at its end (ms); ``None`` unless all of them were."""
        marks: dict[bytes, bytes] = yield Ask(("HGETALL", self._space.readiness))
        total = int(marks.pop(b"partitions", b"0"))
        return [int(stamp) for stamp in marks.values()] if total and len(marks) >= total else None


def request_counters(entity: str, tier: Literal["redis", "l1"]) -> dict[Result, CounterMetric]:
    """The request counter of each result, bound once: looking labels up costs as much as a decode."""
    results: tuple[Result, ...] = ("hit", "stale", "negative", "miss", "bypass", "error")
    return {result: REQUESTS.labels(entity, tier, result) for result in results}


def needed(token: VersionToken | None, domain: str) -> Version | None:
    """The version of a token.

    Raises:
        UsageError: the token belongs to another version domain.
    """
    if token is None:
        return None
    if token.domain != domain:
        raise UsageError(
            f"the token {token} is of domain {token.domain!r}, this cache of {domain!r}: its versions do not compare"
        )
    return token.version


def fetch_many(names: Sequence[str], cluster: bool, ask: type[Ask] = Ask) -> Step[list[bytes | None]]:
    """The bytes of several entries, in one round trip (in a Cluster one per node: MGET can not cross slots)."""
    found: list[bytes | None]
    if not names:
        return []
    if not cluster:
        found = yield ask(("MGET", *names))
        return found
    replies = yield Batch([("GET", name) for name in names])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    found = replies
    return found
