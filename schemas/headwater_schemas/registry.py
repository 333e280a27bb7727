"""The schema registry (Confluent-compatible), behind caches, with its three outcomes told apart.

An id that the registry does not know is the record's fault (``NotDecodable``: dead-letter it). A registry that does not
answer is nobody's fault (``RegistryUnavailable``: wait). A schema that it refuses is the caller's (``UsageError``).

Ids and their schemas never change, so they are cached for good. Unknown ids are remembered for a short time, so that a
flood of one poison record asks once; a flood of records with ever different ids still asks once per id.
"""

from __future__ import annotations

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from headwater_schemas.catalogue import COMPATIBILITIES, Compatibility, Schema
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import (
    IncompatibleSchema,
    NotDecodable,
    NotPermitted,
    RegistryUnavailable,
    UnknownSchema,
    UsageError,
)
from headwater_schemas.metrics import REGISTRY_REQUESTS, RegistryOutcome
from headwater_schemas.settings import Environment, RegistrySettings

__all__ = ["LocalRegistry", "Registry", "SchemaRegistry"]

_UNKNOWN_FOR: Final = 10.0
_UNKNOWN_LIMIT: Final = 10_000
_PREFETCH_TOGETHER: Final = 8


class SchemaRegistry(ABC):
    """A registry behind caches, safe to share between threads: ``Registry`` is real, ``LocalRegistry`` the fake.

    Args:
        clock: decides when an unknown id may be asked for again.
        unknown_for: seconds that an unknown id is remembered.
    """

    def __init__(self, *, clock: Clock | None = None, unknown_for: float = _UNKNOWN_FOR) -> None:
        self._clock = clock or SystemClock()
        self._unknown_for = unknown_for
        self._schemas: dict[int, Schema] = {}
        self._unknown: dict[int, float] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def schema(self, schema_id: int) -> Schema:
        """The schema of an id. Blocks for one request when the id is new.

        Raises:
            NotDecodable: the registry does not know the id (remembered for a short time), or it is not an Avro schema.
            RegistryUnavailable: it does not answer.
        """
        schema = self._schemas.get(schema_id)
        if schema is not None:
            return schema
        if self.unknown(schema_id):
            raise NotDecodable(f"the registry does not know schema id {schema_id}")
        try:
            schema = self._fetch(schema_id)
        except NotDecodable:
            self._remember_unknown(schema_id)
            raise
        self._schemas[schema_id] = schema
        return schema

    def cached(self, schema_id: int) -> Schema | None:
        """The schema of an id if it is at hand; never blocks."""
        return self._schemas.get(schema_id)

    def unknown(self, schema_id: int) -> bool:
        """Whether the registry said lately that it does not know the id; never blocks."""
        until = self._unknown.get(schema_id)
        return until is not None and until > self._clock.monotonic()

    async def prefetch(self, ids: Iterable[int]) -> None:
        """Bring the schemas of ``ids`` into the cache without blocking the event loop.

        An id that the registry does not know is no error here: decoding its record is.

        Raises:
            RegistryUnavailable: the registry does not answer; what did arrive is cached.
        """
        wanted = [i for i in dict.fromkeys(ids) if i not in self._schemas and not self.unknown(i)]
        for start in range(0, len(wanted), _PREFETCH_TOGETHER):
            part = wanted[start : start + _PREFETCH_TOGETHER]
            outcomes = await asyncio.gather(*(asyncio.to_thread(self.schema, i) for i in part), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not isinstance(outcome, NotDecodable):
                    raise outcome

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id of ``schema`` under ``subject``, registered if it was not. Blocks for one request when it is new here.

        Raises:
            IncompatibleSchema: the subject's compatibility level forbids it.
            UsageError: the registry does not take it as a schema.
            NotPermitted: we may not register.
            RegistryUnavailable: the registry does not answer.
        """
        return self._id(subject, schema, self._register)

    def lookup(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id that ``schema`` already has under ``subject``. Blocks for one request when it is new here.

        Raises:
            UnknownSchema: it is not registered under the subject.
            RegistryUnavailable: the registry does not answer.
        """
        return self._id(subject, schema, self._lookup)

    @abstractmethod
    def versions(self, subject: str) -> list[Schema]:
        """Every schema registered under ``subject``, oldest first; empty when there is none. Blocks.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """

    @abstractmethod
    def compatibility(self, subject: str) -> Compatibility | None:
        """The level set for ``subject``; ``None`` when the registry's global level applies. Blocks for one request.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """

    @abstractmethod
    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        """Set the level of ``subject``, which need not exist yet. Blocks for one request.

        Raises:
            NotPermitted: we may not.
            RegistryUnavailable: the registry does not answer.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. What is cached stays readable."""

    @abstractmethod
    def _fetch(self, schema_id: int) -> Schema: ...

    @abstractmethod
    def _register(self, subject: str, text: str) -> int: ...

    @abstractmethod
    def _lookup(self, subject: str, text: str) -> int: ...

    def _id(self, subject: str, schema: Mapping[str, Any], ask: Any) -> int:
        text = _text(schema)
        known = self._ids.get((subject, text))
        if known is not None:
            return known
        schema_id: int = ask(subject, text)
        self._ids[subject, text] = schema_id
        self._schemas.setdefault(schema_id, dict(schema))
        return schema_id

    def _remember_unknown(self, schema_id: int) -> None:
        with self._lock:
            if len(self._unknown) >= _UNKNOWN_LIMIT:
                self._unknown.pop(next(iter(self._unknown)))
            self._unknown[schema_id] = self._clock.monotonic() + self._unknown_for


class Registry(SchemaRegistry):
    """The real registry, over HTTP.

    Args:
        settings: address, credentials and the time limit of one request.
    """

    def __init__(
        self, settings: RegistrySettings, *, clock: Clock | None = None, unknown_for: float = _UNKNOWN_FOR
    ) -> None:
        # Imported here: it takes most of a second, and a process may need no registry.
        from confluent_kafka.schema_registry import SchemaRegistryClient

        super().__init__(clock=clock, unknown_for=unknown_for)
        self._url = settings.url
        config: dict[str, Any] = {"url": settings.url, "timeout": settings.timeout, "max.retries": 0}
        if settings.username is not None:
            config["basic.auth.user.info"] = f"{settings.username}:{settings.password or ''}"
        self._client = SchemaRegistryClient(config)

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Registry:
        """The registry of ``HEADWATER_REGISTRY_*``.

        Raises:
            SettingError: a value is malformed.
        """
        return cls(RegistrySettings.from_env(env))

    def versions(self, subject: str) -> list[Schema]:
        numbers = self._call(lambda: self._client.get_versions(subject), unknown=[])
        found = [self._call(lambda n=n: self._client.get_version(subject, n).schema.schema_str) for n in numbers]
        return [_parsed(text) for text in found]

    def compatibility(self, subject: str) -> Compatibility | None:
        level = self._call(lambda: self._client.get_config(subject).compatibility_level, unknown=None)
        if level is None:
            return None
        return cast("Compatibility", level)

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        from confluent_kafka.schema_registry import ConfigCompatibilityLevel, ServerConfig

        self._call(
            lambda: self._client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))
        )

    def close(self) -> None:
        self._client.close()

    def _fetch(self, schema_id: int) -> Schema:
        schema = self._call(lambda: self._client.get_schema(schema_id), unknown=None)
        if schema is None:
            raise NotDecodable(f"the registry does not know schema id {schema_id}")
        if schema.schema_type not in (None, "AVRO"):
            raise NotDecodable(f"schema id {schema_id} is a {schema.schema_type} schema; only Avro can be decoded")
        return _parsed(schema.schema_str)

    def _register(self, subject: str, text: str) -> int:
        from confluent_kafka.schema_registry import Schema as Registrable

        return cast("int", self._call(lambda: self._client.register_schema(subject, Registrable(text, "AVRO"))))

    def _lookup(self, subject: str, text: str) -> int:
        from confluent_kafka.schema_registry import Schema as Registrable

        found = self._call(lambda: self._client.lookup_schema(subject, Registrable(text, "AVRO")), unknown=None)
        if found is None:
            raise UnknownSchema(f"the schema is not registered under {subject}: run `headwater schemas register`")
        return cast("int", found.schema_id)

    def _call(self, request: Any, **unknown: Any) -> Any:
        """The answer of one request; ``unknown`` is what to give when the registry has no such thing."""
        import httpx
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            answer = request()
        except SchemaRegistryError as exc:
            outcome, error = _translate(exc, self._url)
            _count(outcome)
            if outcome == "unknown" and "unknown" in unknown:
                return unknown["unknown"]
            raise error from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            # ValueError: the answer is not JSON, so whoever answers is not a registry.
            _count("unavailable")
            raise RegistryUnavailable(f"no answer from the schema registry at {self._url}: {exc!r}") from exc
        _count("ok")
        return answer


class LocalRegistry(SchemaRegistry):
    """A registry in memory, for tests: the same answers and errors as the real one, and a switch to take it down.

    ``down = True`` makes every request raise ``RegistryUnavailable``; ``requests`` counts what went past the caches.
    """

    def __init__(self, *, clock: Clock | None = None, unknown_for: float = _UNKNOWN_FOR) -> None:
        super().__init__(clock=clock, unknown_for=unknown_for)
        self.down = False
        self.requests = 0
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, list[int]] = {}
        self._levels: dict[str, Compatibility] = {}

    def versions(self, subject: str) -> list[Schema]:
        self._request()
        return [_parsed(self._texts[i]) for i in self._subjects.get(subject, [])]

    def compatibility(self, subject: str) -> Compatibility | None:
        self._request()
        return self._levels.get(subject)

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        self._request()
        if level not in COMPATIBILITIES:
            raise UsageError(f"{level!r} is not a compatibility level: pass one of {', '.join(COMPATIBILITIES)}")
        self._levels[subject] = level

    def forget(self) -> None:
        """Empty the caches, as a new process would have them; what is registered stays."""
        self._schemas.clear()
        self._unknown.clear()
        self._ids.clear()

    def close(self) -> None:
        """Nothing to let go of."""

    def _fetch(self, schema_id: int) -> Schema:
        self._request()
        if schema_id not in self._texts:
            raise NotDecodable(f"the registry does not know schema id {schema_id}")
        return _parsed(self._texts[schema_id])

    def _register(self, subject: str, text: str) -> int:
        self._request()
        with self._lock:
            schema_id = next((i for i, known in self._texts.items() if known == text), len(self._texts) + 1)
            self._texts[schema_id] = text
            versions = self._subjects.setdefault(subject, [])
            if schema_id not in versions:
                versions.append(schema_id)
            return schema_id

    def _lookup(self, subject: str, text: str) -> int:
        self._request()
        for schema_id in self._subjects.get(subject, []):
            if self._texts[schema_id] == text:
                return schema_id
        raise UnknownSchema(f"the schema is not registered under {subject}: run `headwater schemas register`")

    def _request(self) -> None:
        self.requests += 1
        if self.down:
            raise RegistryUnavailable("the local registry was taken down")


def _translate(exc: Any, url: str) -> tuple[RegistryOutcome, Exception]:
    """What a registry's error answer means for the caller; the one place that decides it."""
    status, code, message = exc.http_status_code, exc.error_code, exc.error_message
    if status == 404 and code in (40401, 40402, 40403, 40408):
        # Its own codes: no such subject, version, schema, subject level.
        return "unknown", UnknownSchema(f"{url}: {message}")
    if status == 409:
        return "refused", IncompatibleSchema(f"the registry refuses the schema: {message}")
    if status == 422:
        return "refused", UsageError(f"the registry does not take it: {message}")
    if status in (401, 403):
        return "refused", NotPermitted(f"the registry at {url} refuses our credentials: {message}")
    # 5xx, 408, 429; and a 404 without a registry's code comes from something else at that address (a proxy, a wrong
    # path): nothing is known about the id then, so no record may be condemned for it.
    return "unavailable", RegistryUnavailable(f"the schema registry at {url} answered {status}: {message}")


def _count(outcome: RegistryOutcome) -> None:
    REGISTRY_REQUESTS.labels(outcome).inc()


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _parsed(text: str) -> Schema:
    schema = json.loads(text)
    return schema if isinstance(schema, dict) else {"type": schema}
