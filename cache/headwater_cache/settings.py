"""How to reach Redis, and the policy of a cache: small frozen value objects, checked at construction."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import SettingError, UsageError
from headwater_schemas.settings import Environment

__all__ = ["CachePolicy", "RedisSettings"]

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


READ_TIMEOUT = 0.03
"""Seconds. With the source behind it, a read of a silent Redis takes less than 50 ms longer."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach Redis.

    Args:
        url: ``redis://[user:password@]host:port/db``, ``rediss://`` (TLS), ``unix://path``;
            ``redis+sentinel://host:port,host:port/service/db``; ``redis+cluster://host:port,host:port``; both also with
            ``rediss``, and then for the Sentinels and every node.
        timeout: seconds for one command and for one connection attempt. redis-py's own default is 5 s with ten retries,
            which made one GET hang for 25 s on a black hole.
        read_timeout: cache mode: seconds for a read, which has the source to go to; it also takes Redis for silent
            until a ping, in the background, is answered, so nobody else waits. At most ``timeout``.
        retries: further tries after a broken connection (never after a timeout: that would double the latency).
        max_connections: connections per process and kind of client (in a Cluster, of each node); a caller waits about
            ``timeout`` for a free one, then gets ``NoFreeConnection``.
        replicas: so many must have a batch of change events before it counts as applied (WAIT); 0 = do not wait. It
            makes a failover lose less. No promise: a replica that did not answer may be the one that is promoted.
        ca: with TLS: path of the certificates (PEM) that signed the server's; ``None`` = those of the system. The
            certificate must hold the host that ``url`` names.
        cert: with TLS: path of our own certificate (PEM), for a Redis that asks for one (mutual TLS).
        key: path of its private key (PEM, not encrypted); ``None`` = it stands in ``cert``.
        sentinel_username: at the Sentinels, which know other users than Redis does; ``None`` = the default user.
        sentinel_password: at the Sentinels; ``None`` = they ask for none.
    """

    url: str
    timeout: float = 0.3
    read_timeout: float = field(default_factory=lambda: READ_TIMEOUT)
    retries: int = 1
    max_connections: int = 20
    replicas: int = 0
    ca: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def __post_init__(self) -> None:
        _check_numbers(self.url)
        if urlsplit(self.url).scheme not in _SCHEMES:
            shown = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise SettingError(f"HEADWATER_REDIS_URL must start with one of {shown}")
        if not 0 < self.timeout <= 10:
            raise SettingError(
                f"HEADWATER_REDIS_TIMEOUT is {self.timeout} s: pass more than 0 and at most 10 s, such as 300ms"
            )
        if self.read_timeout <= 0:
            raise SettingError(f"HEADWATER_REDIS_READ_TIMEOUT is {self.read_timeout} s: pass more than 0, such as 30ms")
        object.__setattr__(self, "read_timeout", min(self.read_timeout, self.timeout))
        if not 0 <= self.retries <= 3:
            raise SettingError(
                f"HEADWATER_REDIS_RETRIES is {self.retries}: pass 0 to 3; each one adds to the latency of a caller"
            )
        if self.max_connections < 1:
            raise SettingError(f"HEADWATER_REDIS_MAX_CONNECTIONS is {self.max_connections}: pass at least 1")
        if self.replicas < 0 or (self.replicas and urlsplit(self.url).scheme.endswith("+cluster")):
            raise SettingError(
                f"HEADWATER_REDIS_REPLICAS is {self.replicas}: pass 0 or more; with redis+cluster:// pass 0, because "
                "WAIT speaks for one primary"
            )
        self._check_certificates()
        self._check_sentinel_user()

    def _check_sentinel_user(self) -> None:
        if self.sentinel_password is None and self.sentinel_username is None:
            return
        if not urlsplit(self.url).scheme.endswith("+sentinel"):
            raise SettingError(
                "HEADWATER_REDIS_SENTINEL_PASSWORD (or _USERNAME) is set, and HEADWATER_REDIS_URL names no Sentinels: "
                "begin it with redis+sentinel://, or unset it"
            )
        if self.sentinel_password is None:
            raise SettingError("HEADWATER_REDIS_SENTINEL_USERNAME is set without HEADWATER_REDIS_SENTINEL_PASSWORD")

    def _check_certificates(self) -> None:
        for name, path in {"CA": self.ca, "CERT": self.cert, "KEY": self.key}.items():
            if path is not None and not urlsplit(self.url).scheme.startswith("rediss"):
                raise SettingError(
                    f"HEADWATER_REDIS_{name} is set and HEADWATER_REDIS_URL has no TLS: begin it with rediss, or unset "
                    f"HEADWATER_REDIS_{name}"
                )
        if self.ca is not None:
            try:
                ssl.create_default_context(cafile=self.ca)
            except OSError as exc:
                raise SettingError(
                    f"HEADWATER_REDIS_CA: {self.ca} cannot be read as certificates (PEM): {exc}"
                ) from exc
        if self.cert is not None:
            try:
                # Without a password of ours OpenSSL would ask the terminal for that of an encrypted key.
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.cert, self.key, password="")
            except OSError as exc:
                raise SettingError(
                    f"HEADWATER_REDIS_CERT: {self.cert} with the key of {self.key or self.cert} cannot be used: {exc}; "
                    "pass a certificate and its own private key (PEM, not encrypted)"
                ) from exc
        elif self.key is not None:
            raise SettingError("HEADWATER_REDIS_KEY is set without HEADWATER_REDIS_CERT: name its certificate as well")

    def __repr__(self) -> str:
        """Without the password."""
        parts = urlsplit(self.url)
        return f"RedisSettings({parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}, timeout={self.timeout})"

    @classmethod
    def from_env(cls, env: Environment | None = None) -> RedisSettings:
        """Read ``HEADWATER_REDIS_*``.

        Raises:
            SettingError: a value is malformed.
        """
        env = env or Environment()
        return cls(
            url=env.text("HEADWATER_REDIS_URL"),
            timeout=env.duration("HEADWATER_REDIS_TIMEOUT"),
            read_timeout=env.duration("HEADWATER_REDIS_READ_TIMEOUT"),
            retries=env.integer("HEADWATER_REDIS_RETRIES"),
            max_connections=env.integer("HEADWATER_REDIS_MAX_CONNECTIONS"),
            replicas=env.integer("HEADWATER_REDIS_REPLICAS"),
            ca=env.get("HEADWATER_REDIS_CA"),
            cert=env.get("HEADWATER_REDIS_CERT"),
            key=env.get("HEADWATER_REDIS_KEY"),
            sentinel_username=env.get("HEADWATER_REDIS_SENTINEL_USERNAME"),
            sentinel_password=env.get("HEADWATER_REDIS_SENTINEL_PASSWORD"),
        )


def _check_numbers(url: str) -> None:
    """Port and database of a URL. (Hosts and ports of several nodes are looked at when they are taken apart.)"""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss"):
            _ = parts.port
    except ValueError as exc:  # its text may hold the password
        raise SettingError(
            "HEADWATER_REDIS_URL: the port is no number from 0 to 65535, or a bracket is missing: pass "
            "redis://user:password@host:6379/0, with what is special in user and password percent-encoded"
        ) from exc
    places = parts.path.strip("/").split("/")
    database = {"redis": 0, "rediss": 0, "redis+sentinel": 1, "rediss+sentinel": 1}.get(parts.scheme)
    if database is None or not parts.path.strip("/"):
        return
    if len(places) > database + 1 or (len(places) > database and not places[database].isdecimal()):
        raise SettingError(
            f"HEADWATER_REDIS_URL ends with {parts.path!r}: after the host comes {'the service, then ' * database}the "
            f"number of the database, as in {'/service/0' if database else '/0'}"
        )


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Durations (seconds, or ``"30s"``) and limits of one cache. The defaults suit cache mode; a view has no expiry.

    Args:
        soft_ttl: from here on a value is served and refreshed in the background. 0 = never.
        hard_ttl: from here on a value is not served, except ``stale_if_error``. 0 = never.
        jitter: share by which each expiry is moved at random: what was written together does not expire together.
        negative_ttl: how long "the source had none" is believed, and how far the source may lag behind the events: for
            so long after an event of a value it is not. At least 1 ms, as the next three.
        fence_ttl: how long a fence lives; must exceed ``lease_ttl``. A value stays physically this much past its hard
            expiry, so that its version still refuses older ones.
        tombstone_ttl: how long a delete is remembered; must exceed the lateness of any event or zombie consumer.
        lease_ttl: how long one process may take to load.
        wait: how long a reader waits for another's load, a fence or a token's version.
        passers: how many waiters may pass to the source when the wait is over (over all processes, in ``lease_ttl``).
        loads: how many loads may be in flight at the source (per process).
        stale_if_error: how long past its hard expiry a value may be served while the source fails; at most
            ``fence_ttl``.
        early: strength of XFetch early refresh (Vattani et al., VLDB 2015); 0 = off, 1 = optimal under its model.
        refreshes: background refreshes per second and process, at most.
        failover_window: how far a consumer rewinds when it can not know better.
        key_bytes: longest key.
        value_bytes: largest encoded value.
    """

    soft_ttl: Duration = "5m"
    hard_ttl: Duration = "1h"
    jitter: float = 0.1
    negative_ttl: Duration = "30s"
    fence_ttl: Duration = "10m"
    tombstone_ttl: Duration = "24h"
    lease_ttl: Duration = "10s"
    wait: Duration = "500ms"
    passers: int = 2
    loads: int = 32
    stale_if_error: Duration = "5m"
    early: float = 1.0
    refreshes: float = 50.0
    failover_window: Duration = "30s"
    key_bytes: int = 512
    value_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        for name in _DURATIONS:
            value = seconds(getattr(self, name))
            shortest = 0.001 if name in _NEVER_ZERO else 0.0
            if value < shortest or 0 < value < 0.001:
                raise UsageError(f"{name} is {value} s: pass {'0 or ' if not shortest else ''}at least 1ms")
            object.__setattr__(self, name, value)
        if self.seconds_of("fence_ttl") <= self.seconds_of("lease_ttl"):
            raise UsageError("fence_ttl must exceed lease_ttl: a lost lease fails safe, a lost fence does not")
        if self.seconds_of("stale_if_error") > self.seconds_of("fence_ttl"):
            raise UsageError("stale_if_error must not exceed fence_ttl: past that the value is no longer in Redis")
        soft, hard = self.seconds_of("soft_ttl"), self.seconds_of("hard_ttl")
        if soft and hard and soft > hard:
            raise UsageError(f"soft_ttl ({soft} s) must not exceed hard_ttl ({hard} s)")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"jitter={self.jitter}: pass a share from 0 to below 1, such as 0.1")
        if self.loads < 1 or self.passers < 0 or self.key_bytes < 1 or self.value_bytes < 1:
            raise UsageError("loads, key_bytes and value_bytes must be at least 1, passers at least 0")
        if not 0 <= self.refreshes < math.inf:
            raise UsageError(f"refreshes={self.refreshes}: pass how many a second, 0 for none")
        if not 0 <= self.early < math.inf:
            raise UsageError(f"early={self.early}: pass 0 (off) or more, such as 1.0")

    def seconds_of(self, name: str) -> float:
        """A duration of this policy in seconds."""
        value: float = getattr(self, name)
        return value

    def milliseconds(self, name: str) -> int:
        """A duration of this policy in whole milliseconds."""
        return round(self.seconds_of(name) * 1000)


_DURATIONS = (
    "soft_ttl",
    "hard_ttl",
    "negative_ttl",
    "fence_ttl",
    "tombstone_ttl",
    "lease_ttl",
    "wait",
    "stale_if_error",
    "failover_window",
)
_NEVER_ZERO = ("negative_ttl", "fence_ttl", "tombstone_ttl", "lease_ttl")
"""To Redis 0 ms is for ever, or no expiry at all."""
