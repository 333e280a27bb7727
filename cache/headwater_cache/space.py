"""The namespace of one cache: its names in Redis, its version domain, its live epoch, the checks before first use."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from headwater_cache.entry import HEADER_SIZE, NO_TAGS, State, pack
from headwater_cache.errors import InvalidKey, UnsafeRedis, WrongEpoch
from headwater_cache.flights import Abandoned, Flights
from headwater_cache.scripts import RELEASE, SCRIPTS
from headwater_cache.settings import CachePolicy
from headwater_cache.steps import Ask, Batch, Join, Read, Step
from headwater_cache.versions import DOMAIN_WIDTH, Version
from headwater_schemas.clock import Clock
from headwater_schemas.errors import NotPermitted, RecordTooLarge, UsageError

__all__ = ["EPOCH_CHECK_SECONDS", "Mode", "Space"]

Mode = Literal["view", "cache"]

EPOCH_CHECK_SECONDS = 5.0
"""How often each process looks whether the live epoch has moved on: for so long it may read the retired one."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(slots=True)
class Space:
    """What every part of one cache shares. ``epoch=None`` follows the live epoch; a number stays in that one."""

    name: str
    mode: Mode
    domain: str
    policy: CachePolicy
    clock: Clock
    fixed_epoch: int | None = None
    cluster: bool = False
    replicas: int = 0
    replica_ms: int = 0
    random: random.Random = field(default_factory=random.Random)
    epoch: int = 0
    prefix: str = ""
    domain_bytes: bytes = b""
    checked: bool = False
    _look_at: float = 0.0
    _start: Flights[None] = field(default_factory=Flights)

    def __post_init__(self) -> None:
        self.domain_bytes = self.domain.encode().ljust(DOMAIN_WIDTH)
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no cache name: pass 1 to 100 characters of A-Z a-z 0-9 . _ -")
        if self.mode not in ("view", "cache"):
            raise UsageError(
                f"mode={self.mode!r}: pass 'view' (the change topic is the truth) or 'cache' (a source is)"
            )
        if self.fixed_epoch is not None and self.fixed_epoch < 1:
            raise WrongEpoch(f"epoch={self.fixed_epoch}: pass 1 or more, or None to follow the live epoch")

    # Names in Redis. The braces are the hash tag: an entry, its lease and its last refusal share a slot.

    def key(self, key: str) -> str:
        """The name of the entry of a business key.

        Raises:
            InvalidKey: not text, empty, without a UTF-8 form, or longer than the policy allows.
        """
        if not isinstance(key, str) or not key:
            raise InvalidKey(f"{key!r} is no key: pass a text that is not empty")
        if (len(key) if key.isascii() else _utf8_bytes(key)) > self.policy.key_bytes:
            raise InvalidKey(
                f"the key {key[:40]!r}… is longer than {self.policy.key_bytes} bytes (CachePolicy.key_bytes)"
            )
        return self.prefix + key + "}"

    @property
    def pointer(self) -> str:
        """Holds the live epoch."""
        return f"{self.name}:epoch"

    @property
    def watermarks(self) -> str:
        """Hash: partition -> next offset to be applied."""
        return f"{{{self.name}:{self.epoch}}}:watermark"

    @property
    def readiness(self) -> str:
        """Hash: partition -> when it was last seen at its end, ms."""
        return f"{{{self.name}:{self.epoch}}}:ready"

    @property
    def snapshot(self) -> str:
        """How far the snapshot of a table is."""
        return f"{{{self.name}:{self.epoch}}}:snapshot"

    @property
    def tags(self) -> str:
        """Hash: tag -> when it was last invalidated, on the clock in its field ''."""
        return f"{{{self.name}:{self.epoch}}}:tags"

    def lock(self, name: str) -> str:
        """Of a lock: outlives the epochs.

        Raises:
            InvalidKey: as for a key.
        """
        self.key(name)
        return f"{{{self.name}:lock:{name}}}"

    # Entries

    def now_ms(self) -> int:
        """Wall-clock ms."""
        return int(self.clock.time() * 1000)

    def entry(
        self,
        state: State,
        version: Version,
        payload: bytes = b"",
        schema_id: int = 0,
        *,
        written_at: int = 0,
        load_ms: int = 0,
        tags: Mapping[str, int] = NO_TAGS,
    ) -> tuple[bytes, str]:
        """The bytes of a new entry and how long it lives in Redis (ms, as text; ``"0"`` = for ever)."""
        now = self.now_ms()
        soft = hard = 0
        if state == "T":
            life = str(self.policy.milliseconds("tombstone_ttl"))
        elif state == "F":
            life = self.fence_ms
        else:
            soft, hard = (0, 0) if self.mode == "view" else self.expiries(now, state)
            life = self.life_ms(now, state, hard)
        data = pack(
            state, self.domain, version, payload, written_at=written_at or now, soft=soft, hard=hard,
            load_ms=load_ms, schema_id=schema_id, tags=tags,
        )  # fmt: skip
        return data, life

    def expiries(self, now: int, state: State) -> tuple[int, int]:
        """Soft and hard expiry (ms) of what is written now, moved by the jitter."""
        share = 1 + self.policy.jitter * self.random.uniform(-1, 1)
        if state == "N":
            return 0, now + round(self.policy.milliseconds("negative_ttl") * share)
        soft, hard = self.policy.milliseconds("soft_ttl"), self.policy.milliseconds("hard_ttl")
        return (now + round(soft * share) if soft else 0), (now + round(hard * share) if hard else 0)

    def life_ms(self, now: int, state: State, hard: int) -> str:
        """Physical life: past its hard expiry a value still refuses older versions, as a fence would."""
        if not hard:
            return "0"
        return str(max(1, hard - now) + (self.policy.milliseconds("fence_ttl") if state == "V" else 0))

    @property
    def fence_ms(self) -> str:
        """How long a fence lives. In a view for ever: absent would mean not found, and the log is sure to fill it."""
        return "0" if self.mode == "view" else str(self.policy.milliseconds("fence_ttl"))

    def check_size(self, payload: bytes) -> bytes:
        """The payload, unchanged.

        Raises:
            RecordTooLarge: it is over the limit of the policy.
        """
        if len(payload) > self.policy.value_bytes:
            raise RecordTooLarge(
                f"the encoded value has {len(payload)} bytes, over CachePolicy.value_bytes={self.policy.value_bytes}"
            )
        return payload

    # Start and epoch

    def due(self) -> bool:
        """Whether ``look`` must run before the next command."""
        return self.clock.monotonic() >= self._look_at or not self.checked

    def look(self, ask: type[Ask | Read] = Ask) -> Step[None]:
        """Check the server once, with patience; then see which epoch is live, as ``ask`` does.

        Raises:
            UnsafeRedis: a view on a Redis that may evict.
            NotPermitted: the user may not run scripts, or not on these keys.
            WrongEpoch: the live epoch is beyond the fixed one.
            CacheUnavailable: Redis does not answer; the next call tries again.
        """
        while not self.checked:
            flight, pilot = self._start.board("")
            if pilot:
                yield from self._begin()
                return
            with suppress(Abandoned):
                yield Join(flight)
                return
        self._look_at = self.clock.monotonic() + EPOCH_CHECK_SECONDS  # one looks, the others go on
        yield from self._follow(ask)

    def _begin(self) -> Step[None]:
        """The first use, once for all who wait for it."""
        try:
            yield from self._check()
            yield from self._follow(Ask)
        except BaseException as exc:
            self._start.crash("", exc)
            raise
        self._look_at = self.clock.monotonic() + EPOCH_CHECK_SECONDS
        self.checked = True
        self._start.land("", None)

    def _follow(self, ask: type[Ask | Read]) -> Step[None]:
        live = yield ask(("GET", self.pointer))
        if live is None:
            yield Ask(("SET", self.pointer, str(self.fixed_epoch or 1), "NX"))
            live = yield Ask(("GET", self.pointer))
        number = int(live or 1)
        if self.fixed_epoch is not None and self.fixed_epoch < number:
            raise WrongEpoch(
                f"{self.name} is at epoch {number}, you passed epoch={self.fixed_epoch}: what is written to a retired "
                "epoch is never read; pass None to follow the live epoch"
            )
        self._use(self.fixed_epoch or number)

    def _use(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.prefix = f"{{{self.name}:{epoch}:"

    def _check(self) -> Step[None]:
        self._use(self.fixed_epoch or 1)
        replies = yield Batch(
            [
                ("INFO", "memory"),
                *(("SCRIPT", "LOAD", script.source) for script in SCRIPTS),
                RELEASE.call([self.prefix + "?}"], ["?"]),
            ]
        )
        memory, scripts = replies[0], replies[1:]
        for reply in scripts:
            if isinstance(reply, NotPermitted):
                raise NotPermitted(
                    f"the Redis user may not run Lua scripts on the keys of {self.name}: every write of the cache is "
                    f"one; grant +evalsha +script|load and ~{{{self.name}:* ({reply})"
                ) from reply
            if isinstance(reply, Exception):
                raise reply
        if self.mode == "view":
            self._check_eviction(memory)

    def _check_eviction(self, memory: object) -> None:
        if isinstance(memory, Exception):
            raise UnsafeRedis(
                f"can not read maxmemory-policy (INFO memory), which a view must know: {memory}"
            ) from memory
        policy = memory.get("maxmemory_policy") if isinstance(memory, dict) else None
        if policy != "noeviction":
            raise UnsafeRedis(
                f"maxmemory-policy is {policy}: a view holds every key of its log and an absent key means not found: "
                "an evicted key would be a wrong answer; set `maxmemory-policy noeviction`, or use mode='cache' with a "
                "source"
            )


def _utf8_bytes(key: str) -> int:
    try:
        return len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidKey(f"the key {key[:40]!r} has no UTF-8 form: it holds a lone surrogate") from exc


assert HEADER_SIZE == 74, "apply.lua cuts fences at this size"
