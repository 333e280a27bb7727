"""Settings: every ``HEADWATER_*`` environment variable, declared once, with unit, default and meaning.

The table ``SETTINGS`` is the whole list: the reference page is generated from it and a name that is not in it is an
error, so a typing mistake is never silence. Packages build small frozen value objects from an ``Environment``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from headwater_schemas.durations import seconds
from headwater_schemas.errors import SettingError, UsageError

__all__ = ["SETTINGS", "Environment", "KafkaSettings", "RegistrySettings", "Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable. ``default`` is the text one would set; ``None`` means it has none."""

    name: str
    default: str | None
    help: str
    secret: bool = False


SETTINGS: tuple[Setting, ...] = (
    # Kafka
    Setting("HEADWATER_KAFKA_BOOTSTRAP", "127.0.0.1:9092", "Kafka bootstrap servers, comma-separated host:port."),
    Setting("HEADWATER_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."),
    Setting("HEADWATER_KAFKA_SECURITY_CA", None, "Path of the CA certificates (PEM) that signed the brokers'."),
    Setting("HEADWATER_KAFKA_SECURITY_CERT", None, "Path of the client certificate (PEM), for mutual TLS."),
    Setting("HEADWATER_KAFKA_SECURITY_KEY", None, "Path of the client key (PEM), for mutual TLS."),
    Setting(
        "HEADWATER_KAFKA_SECURITY_KEY_PASSWORD",
        None,
        "Password of the client key, if it has one.",
        secret=True,
    ),
    Setting(
        "HEADWATER_KAFKA_SECURITY_MECHANISM",
        None,
        "SASL mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER.",
    ),
    Setting("HEADWATER_KAFKA_SECURITY_USERNAME", None, "SASL user name (for OAUTHBEARER: the client id)."),
    Setting(
        "HEADWATER_KAFKA_SECURITY_PASSWORD",
        None,
        "SASL password (for OAUTHBEARER: the client secret).",
        secret=True,
    ),
    Setting("HEADWATER_KAFKA_SECURITY_TOKEN_URL", None, "OAUTHBEARER (OIDC) token endpoint."),
    Setting("HEADWATER_KAFKA_MAX_RECORD_BYTES", "1000000", "Largest encoded record that is sent, in bytes."),
    # Registry
    Setting(
        "HEADWATER_REGISTRY_URL",
        "http://127.0.0.1:8081/apis/ccompat/v7",
        "Base URL of the Confluent-compatible schema registry API.",
    ),
    Setting("HEADWATER_REGISTRY_USERNAME", None, "User name for the registry, if it asks for one."),
    Setting("HEADWATER_REGISTRY_PASSWORD", None, "Password for the registry.", secret=True),
    Setting("HEADWATER_REGISTRY_CA", None, "Path of the CA certificates (PEM) that signed the registry's."),
    Setting("HEADWATER_REGISTRY_CERT", None, "Path of the client certificate (PEM), for mutual TLS."),
    Setting("HEADWATER_REGISTRY_KEY", None, "Path of the client key (PEM), for mutual TLS."),
    Setting("HEADWATER_REGISTRY_TIMEOUT", "5s", "How long the registry may take to connect, and to answer."),
    Setting(
        "HEADWATER_REGISTRY_AUTO_REGISTER",
        "true",
        "Whether encoding may register a schema; false: `headwater schemas register` must have done it before.",
    ),
    # Contracts
    Setting(
        "HEADWATER_CONTRACTS",
        None,
        "Folders with a topics.toml and contracts/*.avsc of your own, separated like PATH; added to the shipped.",
    ),
    # Redis
    Setting(
        "HEADWATER_REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "Redis: redis://, rediss:// (TLS), redis+sentinel:// or redis+cluster://.",
        secret=True,
    ),
    Setting("HEADWATER_REDIS_CA", None, "Path of the CA certificates (PEM) that signed Redis's; needs rediss://."),
    Setting("HEADWATER_REDIS_CERT", None, "Path of the client certificate (PEM), for mutual TLS; needs rediss://."),
    Setting("HEADWATER_REDIS_KEY", None, "Path of the client key (PEM); needed if not in the file of the certificate."),
    Setting("HEADWATER_REDIS_SENTINEL_USERNAME", None, "User name at the Sentinels, if they have users."),
    Setting("HEADWATER_REDIS_SENTINEL_PASSWORD", None, "Password at the Sentinels, if they ask for one.", secret=True),
    Setting("HEADWATER_REDIS_TIMEOUT", "300ms", "Time limit of one Redis command and of one connection attempt."),
    Setting(
        "HEADWATER_REDIS_READ_TIMEOUT",
        "30ms",
        "Time limit of a read in cache mode: then the source is asked, and Redis left alone until it answers a ping.",
    ),
    Setting("HEADWATER_REDIS_RETRIES", "1", "Further tries after a broken connection, 0 to 3; never after a timeout."),
    Setting(
        "HEADWATER_REDIS_MAX_CONNECTIONS",
        "20",
        "Connections to Redis per process and kind of client; callers wait HEADWATER_REDIS_TIMEOUT for a free one.",
    ),
    Setting("HEADWATER_REDIS_REPLICAS", "0", "Replicas that must have a batch of changes before it counts as applied."),
    # Producer
    Setting(
        "HEADWATER_PRODUCER_QUEUE_RECORDS",
        "100000",
        "Records that may wait for the broker before `emit` blocks.",
    ),
    Setting("HEADWATER_PRODUCER_QUEUE_BYTES", "268435456", "Bytes that may wait for the broker; the second limit."),
    Setting(
        "HEADWATER_PRODUCER_BACK_PRESSURE", "block", "What `emit` does when the queue is full: block, refuse or spool."
    ),
    Setting("HEADWATER_PRODUCER_BLOCK", "10s", "How long `emit` waits for room in a full queue before it raises."),
    Setting(
        "HEADWATER_PRODUCER_EXIT_FLUSH",
        "10s",
        "How long an exiting interpreter waits for the acknowledgement of what a producer left open still holds.",
    ),
    Setting("HEADWATER_PRODUCER_SPOOL_DIR", None, "Where back pressure `spool` keeps events while the broker is away."),
    Setting("HEADWATER_PRODUCER_SPOOL_BYTES", "1073741824", "How much disk each spool may take."),
    Setting(
        "HEADWATER_PRODUCER_SPOOL_AFTER",
        "5s",
        "How long an event may wait for its acknowledgement before events go to the spool.",
    ),
    Setting("HEADWATER_PRODUCER_DELIVERY_TIMEOUT", "2m", "How long one record may take until it is acknowledged."),
    Setting("HEADWATER_PRODUCER_LINGER", "5ms", "How long a record may wait for others to share its batch."),
    Setting("HEADWATER_PRODUCER_COMPRESSION", "lz4", "none, gzip, snappy, lz4 or zstd."),
    Setting("HEADWATER_PRODUCER_RATE", None, "How fast `emit` may go, e.g. 500/s; unset: no limit."),
    Setting(
        "HEADWATER_PRODUCER_FAIL_FAST",
        None,
        "How long the broker may acknowledge nothing before `emit` fails at once; unset: never. Not with a spool.",
    ),
    # Outbox
    Setting("HEADWATER_OUTBOX_URL", None, "SQLAlchemy URL of the outbox's database, for the relay.", secret=True),
    Setting("HEADWATER_OUTBOX_BATCH", "1000", "How many events the relay sends in one transaction."),
    Setting("HEADWATER_OUTBOX_POLL", "1s", "How often the relay looks when nothing notifies it."),
    Setting("HEADWATER_OUTBOX_KEEP", "0s", "How long sent events stay in the outbox; 0 deletes them as they are sent."),
    Setting("HEADWATER_OUTBOX_HTTP", "127.0.0.1:6068", "host:port of /livez, /readyz and /metrics of the relay."),
    # Streams worker
    Setting("HEADWATER_WORKER_ID", None, "Stable name of this worker: its static group member id."),
    Setting(
        "HEADWATER_WORKER_GROUP_PROTOCOL",
        "auto",
        "auto (KIP-848 where the brokers have it, else classic), consumer (KIP-848) or classic.",
    ),
    Setting(
        "HEADWATER_WORKER_DRAIN",
        "25s",
        "How long a stopping or revoked worker may finish records in flight; at most 240s.",
    ),
    Setting("HEADWATER_WORKER_COMMIT_INTERVAL", "1s", "How often settled offsets are committed."),
    Setting("HEADWATER_WORKER_FETCH_MIN_BYTES", "1", "Bytes a broker waits for before it answers a worker's fetch."),
    Setting("HEADWATER_WORKER_FETCH_WAIT", "100ms", "How long a broker waits for them at most."),
    Setting("HEADWATER_WORKER_LINGER", "5ms", "How long an emitted record may wait for others to share its batch."),
    Setting("HEADWATER_WORKER_HTTP", "127.0.0.1:6066", "host:port of the worker's /livez, /readyz and /metrics."),
    # Lag collector
    Setting("HEADWATER_LAG_HTTP", "127.0.0.1:6067", "host:port of /livez, /readyz and /metrics of `lag --serve`."),
    # Cache auditor
    Setting(
        "HEADWATER_AUDIT_HTTP", "127.0.0.1:6069", "host:port of /livez, /readyz, /metrics of `cache audit --serve`."
    ),
    # Tasks
    Setting("HEADWATER_TASKS_RETENTION", "7d", "How long a task is kept after it has ended."),
    # Tasks API
    Setting("HEADWATER_API_HTTP", "127.0.0.1:8080", "host:port of the HTTP API."),
    Setting(
        "HEADWATER_API_KEYS",
        None,
        "Path of the API key file (hashed keys with scopes); unset: loopback only, no keys.",
    ),
    # Embedded stack, tests
    Setting(
        "HEADWATER_STATE_DIR",
        None,
        "Where the embedded stack keeps its state (default: the user state folder).",
    ),
    Setting("HEADWATER_CACHE_DIR", None, "Where downloads are kept (default: the user cache folder)."),
    Setting("HEADWATER_TEST_BACKEND", None, "embedded, containers or external: where the integration tests run."),
    Setting("HEADWATER_TEST_EFFECTS", None, "File to which `note_effect` appends; set by runs with faults."),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}


class Environment:
    """The ``HEADWATER_*`` part of an environment, checked: an unknown name raises at construction.

    Args:
        values: the environment to read; ``None`` means the process's.

    Raises:
        SettingError: a name starts with ``HEADWATER_`` and is not in ``SETTINGS``.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        source = os.environ if values is None else values
        self._values = {name: value for name, value in source.items() if name.startswith("HEADWATER_")}
        for name in self._values:
            if name not in _BY_NAME:
                raise SettingError(f"unknown setting {name}: {_suggestion(name)}")

    def get(self, name: str) -> str | None:
        """The value, else the default, else ``None``. An empty value counts as not set."""
        return self._values.get(name) or _BY_NAME[name].default

    def text(self, name: str) -> str:
        """The value or default.

        Raises:
            SettingError: the setting has no default and is not set.
        """
        value = self.get(name)
        if value is None:
            raise SettingError(f"{name} is not set: {_BY_NAME[name].help}")
        return value

    def integer(self, name: str, *, minimum: int = 0) -> int:
        """The value as a whole number of at least ``minimum``.

        Raises:
            SettingError: it is not one.
        """
        text = self.text(name)
        if not text.isdecimal() or int(text) < minimum:
            raise SettingError(f"{name}={text!r} must be a whole number of at least {minimum}: {_BY_NAME[name].help}")
        return int(text)

    def flag(self, name: str) -> bool:
        """The value as true or false.

        Raises:
            SettingError: it is neither.
        """
        text = self.text(name).lower()
        if text not in ("true", "false"):
            raise SettingError(f"{name}={text!r} must be true or false: {_BY_NAME[name].help}")
        return text == "true"

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """The value, which must be one of ``choices``.

        Raises:
            SettingError: it is not.
        """
        text = self.text(name)
        if text not in choices:
            raise SettingError(f"{name}={text!r}: pass {', '.join(choices)}")
        return text

    def paths(self, name: str) -> tuple[Path, ...]:
        """The value as a list of paths, separated like ``PATH``; empty when it is not set."""
        return tuple(Path(part) for part in (self.get(name) or "").split(os.pathsep) if part)

    def duration(self, name: str) -> float:
        """The value in seconds.

        Raises:
            SettingError: it is not a duration.
        """
        try:
            return seconds(self.text(name))
        except UsageError as exc:
            raise SettingError(f"{name}: {exc}") from exc


def _suggestion(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f"did you mean {near[0]}?" if near else "see the settings reference for the names that exist"


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka. ``client_config`` gives the librdkafka properties that every client shares."""

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token_url: str | None = None
    max_record_bytes: int = 1_000_000

    _PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    _MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

    def __post_init__(self) -> None:
        if not self.bootstrap.strip():
            raise SettingError("HEADWATER_KAFKA_BOOTSTRAP is empty: pass host:port[,host:port]")
        if self.security_protocol not in self._PROTOCOLS:
            raise SettingError(
                f"HEADWATER_KAFKA_SECURITY_PROTOCOL={self.security_protocol!r}: pass {', '.join(self._PROTOCOLS)}"
            )
        if self.security_protocol.startswith("SASL"):
            self._check_sasl()

    def _check_sasl(self) -> None:
        if self.mechanism not in self._MECHANISMS:
            raise SettingError(
                f"HEADWATER_KAFKA_SECURITY_MECHANISM={self.mechanism!r}: pass one of {', '.join(self._MECHANISMS)}"
            )
        if not self.username or not self.password:
            raise SettingError("SASL needs HEADWATER_KAFKA_SECURITY_USERNAME and HEADWATER_KAFKA_SECURITY_PASSWORD")
        if self.mechanism == "OAUTHBEARER" and not self.token_url:
            raise SettingError("OAUTHBEARER needs HEADWATER_KAFKA_SECURITY_TOKEN_URL, the OIDC token endpoint")

    @classmethod
    def from_env(cls, env: Environment | None = None) -> KafkaSettings:
        """Read ``HEADWATER_KAFKA_*``.

        Raises:
            SettingError: a value is malformed or a needed one is missing.
        """
        env = env or Environment()
        prefix = "HEADWATER_KAFKA_SECURITY_"
        return cls(
            bootstrap=env.text("HEADWATER_KAFKA_BOOTSTRAP"),
            security_protocol=env.text(prefix + "PROTOCOL"),
            ca=env.get(prefix + "CA"),
            cert=env.get(prefix + "CERT"),
            key=env.get(prefix + "KEY"),
            key_password=env.get(prefix + "KEY_PASSWORD"),
            mechanism=env.get(prefix + "MECHANISM"),
            username=env.get(prefix + "USERNAME"),
            password=env.get(prefix + "PASSWORD"),
            token_url=env.get(prefix + "TOKEN_URL"),
            max_record_bytes=env.integer("HEADWATER_KAFKA_MAX_RECORD_BYTES", minimum=1),
        )

    def client_config(self) -> dict[str, str | int | float | bool]:
        """The librdkafka properties for reaching the brokers; a new dict at each call."""
        config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol,
        }
        optional = {
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.cert,
            "ssl.key.location": self.key,
            "ssl.key.password": self.key_password,
            "sasl.mechanism": self.mechanism,
        }
        config.update({name: value for name, value in optional.items() if value is not None})
        if self.mechanism == "OAUTHBEARER":
            config["sasl.oauthbearer.method"] = "oidc"
            config["sasl.oauthbearer.client.id"] = self.username or ""
            config["sasl.oauthbearer.client.secret"] = self.password or ""
            config["sasl.oauthbearer.token.endpoint.url"] = self.token_url or ""
        elif self.mechanism is not None:
            config["sasl.username"] = self.username or ""
            config["sasl.password"] = self.password or ""
        return config


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How to reach the schema registry. ``timeout`` in seconds, per request."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise SettingError(f"HEADWATER_REGISTRY_URL={self.url!r} must start with http:// or https://")
        if "@" in urlsplit(self.url).netloc:
            # The address ends up in error messages and logs.
            raise SettingError(
                "HEADWATER_REGISTRY_URL holds credentials: pass them as HEADWATER_REGISTRY_USERNAME and _PASSWORD"
            )
        if self.timeout <= 0:
            raise SettingError(f"HEADWATER_REGISTRY_TIMEOUT={self.timeout!r} must be more than 0 seconds")

    @classmethod
    def from_env(cls, env: Environment | None = None) -> RegistrySettings:
        """Read ``HEADWATER_REGISTRY_*``.

        Raises:
            SettingError: a value is malformed.
        """
        env = env or Environment()
        return cls(
            url=env.text("HEADWATER_REGISTRY_URL"),
            username=env.get("HEADWATER_REGISTRY_USERNAME"),
            password=env.get("HEADWATER_REGISTRY_PASSWORD"),
            timeout=env.duration("HEADWATER_REGISTRY_TIMEOUT"),
            ca=env.get("HEADWATER_REGISTRY_CA"),
            cert=env.get("HEADWATER_REGISTRY_CERT"),
            key=env.get("HEADWATER_REGISTRY_KEY"),
        )
