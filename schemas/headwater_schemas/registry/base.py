"""What every registry does: caches in front of five requests, which its kinds make each in their own way."""

from __future__ import annotations

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

from headwater_schemas.catalogue import Compatibility, Schema
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import NotDecodable

__all__ = ["UNKNOWN_FOR", "SchemaRegistry", "parsed", "text_of"]

UNKNOWN_FOR: Final = 10.0
"""Seconds that an unknown id is remembered."""

_UNKNOWN_LIMIT: Final = 10_000
_PREFETCH_TOGETHER: Final = 8


class SchemaRegistry(ABC):
    """A registry behind caches, safe to share between threads: ``Registry`` is real, ``LocalRegistry`` the fake.

    Args:
        clock: decides when an unknown id may be asked for again.
        unknown_for: seconds that an unknown id is remembered.
    """

    def __init__(self, *, clock: Clock | None = None, unknown_for: float = UNKNOWN_FOR) -> None:
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
        """Let go of connections. What is cached stays readable. ``with`` does it at the end of the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def _fetch(self, schema_id: int) -> Schema: ...

    @abstractmethod
    def _register(self, subject: str, text: str) -> int: ...

    @abstractmethod
    def _lookup(self, subject: str, text: str) -> int: ...

    def _id(self, subject: str, schema: Mapping[str, Any], ask: Callable[[str, str], int]) -> int:
        text = text_of(schema)
        known = self._ids.get((subject, text))
        if known is not None:
            return known
        schema_id = ask(subject, text)
        self._ids[subject, text] = schema_id
        self._schemas.setdefault(schema_id, dict(schema))
        return schema_id

    def _remember_unknown(self, schema_id: int) -> None:
        with self._lock:
            if len(self._unknown) >= _UNKNOWN_LIMIT:
                self._unknown.pop(next(iter(self._unknown)))
            self._unknown[schema_id] = self._clock.monotonic() + self._unknown_for


def text_of(schema: Mapping[str, Any]) -> str:
    """A schema as it is sent; equal schemas give equal text."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def parsed(text: str) -> Schema:
    """A schema as it came; a bare type name is wrapped, so that every schema is a dict."""
    schema = json.loads(text)
    return schema if isinstance(schema, dict) else {"type": schema}
