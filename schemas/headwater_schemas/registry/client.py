"""The real registry, over HTTP; the one border where its client's errors become ours."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, cast

from headwater_schemas.catalogue import COMPATIBILITIES, Compatibility, Schema
from headwater_schemas.clock import Clock
from headwater_schemas.errors import (
    HeadwaterError,
    IncompatibleSchema,
    NotDecodable,
    NotPermitted,
    RegistryUnavailable,
    SettingError,
    UnknownSchema,
    UsageError,
)
from headwater_schemas.metrics import REGISTRY_REQUESTS, RegistryOutcome
from headwater_schemas.registry.base import UNKNOWN_FOR, SchemaRegistry, parsed
from headwater_schemas.settings import Environment, RegistrySettings

__all__ = ["Registry"]


class Registry(SchemaRegistry):
    """The real registry, over HTTP.

    Args:
        settings: address, credentials and the time limit of one request. Nothing is retried here: whoever waits for a
            registry (a worker that pauses) decides when to ask again.

    Raises:
        SettingError: a TLS file cannot be read.
    """

    def __init__(
        self, settings: RegistrySettings, *, clock: Clock | None = None, unknown_for: float = UNKNOWN_FOR
    ) -> None:
        # Imported here: it takes most of a second, and a process may need no registry.
        from confluent_kafka.schema_registry import SchemaRegistryClient

        super().__init__(clock=clock, unknown_for=unknown_for)
        self._url = settings.url
        config: dict[str, Any] = {"url": settings.url, "timeout": settings.timeout, "max.retries": 0}
        if settings.username is not None:
            config["basic.auth.user.info"] = f"{settings.username}:{settings.password or ''}"
        files = {"ca": settings.ca, "certificate": settings.cert, "key": settings.key}
        config |= {f"ssl.{name}.location": path for name, path in files.items() if path is not None}
        self._closed = False
        try:
            self._client = SchemaRegistryClient(config)
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise SettingError(f"HEADWATER_REGISTRY_CA, _CERT or _KEY cannot be used: {exc}") from exc

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Registry:
        """The registry of ``HEADWATER_REGISTRY_*``.

        Raises:
            SettingError: a value is malformed.
        """
        return cls(RegistrySettings.from_env(env))

    def versions(self, subject: str) -> list[Schema]:
        try:
            numbers = self._call(self._client.get_versions, subject)
        except UnknownSchema:
            return []
        return [parsed(self._call(self._client.get_version, subject, n).schema.schema_str) for n in numbers]

    def compatibility(self, subject: str) -> Compatibility | None:
        try:
            level = self._call(self._client.get_config, subject).compatibility_level
        except UnknownSchema:
            return None
        return cast("Compatibility | None", level)

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        from confluent_kafka.schema_registry import ConfigCompatibilityLevel, ServerConfig

        if level not in COMPATIBILITIES:
            raise UsageError(f"{level!r} is not a compatibility level: pass one of {', '.join(COMPATIBILITIES)}")
        self._call(self._client.set_config, subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))

    def close(self) -> None:
        self._closed = True
        self._client.close()

    def _fetch(self, schema_id: int) -> Schema:
        try:
            schema = self._call(self._client.get_schema, schema_id)
        except UnknownSchema as exc:
            raise NotDecodable(f"the registry does not know schema id {schema_id}") from exc
        if schema.schema_type not in (None, "AVRO"):
            raise NotDecodable(f"schema id {schema_id} is a {schema.schema_type} schema; only Avro can be decoded")
        return parsed(schema.schema_str)

    def _register(self, subject: str, text: str) -> int:
        from confluent_kafka.schema_registry import Schema as Registrable

        return cast("int", self._call(self._client.register_schema, subject, Registrable(text, "AVRO")))

    def _lookup(self, subject: str, text: str) -> int:
        from confluent_kafka.schema_registry import Schema as Registrable

        try:
            return cast("int", self._call(self._client.lookup_schema, subject, Registrable(text, "AVRO")).schema_id)
        except UnknownSchema as exc:
            raise UnknownSchema(f"not registered under {subject}: run `headwater schemas register`") from exc

    def _call(self, request: Callable[..., Any], *arguments: object) -> Any:
        """One request to the registry; ``UnknownSchema`` is its word that there is no such thing."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        # The HTTP library that the client picked (httpx or httpx2): its errors come through unchanged.
        from confluent_kafka.schema_registry.common._httpx_compat import httpx

        if self._closed:
            raise UsageError("this client of the schema registry is closed: make a new one")
        try:
            answer = request(*arguments)
        except SchemaRegistryError as exc:
            outcome, error = _translate(exc, self._url)
            _count(outcome)
            raise error from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            # ValueError: the answer is not JSON, so whoever answers is not a registry.
            _count("unavailable")
            raise RegistryUnavailable(f"no answer from the schema registry at {self._url}: {exc!r}") from exc
        _count("ok")
        return answer


def _translate(exc: Any, url: str) -> tuple[RegistryOutcome, HeadwaterError]:
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
