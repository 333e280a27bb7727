"""Writing events into the outbox, as part of the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from headwater_producers.contract import Contract
from headwater_producers.envelope import Envelope
from headwater_producers.outbox.table import OutboxEvent, lane_of
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.errors import UsageError
from headwater_schemas.registry import Registry, SchemaRegistry
from headwater_schemas.settings import Environment, RegistrySettings
from headwater_schemas.wire import CE_ID

__all__ = ["Outbox"]

_KEY_LENGTH = 255


class AddsEvents(Protocol):
    """A SQLAlchemy ``Session`` or ``AsyncSession``, plain or scoped."""

    def add(self, instance: object) -> None: ...


class Outbox:
    """Emits events by way of the caller's database: what is added is sent if, and only if, its transaction commits.

    At least once: a relay that is killed between the acknowledgement and its own commit sends an event again, with the
    same ``ce_id``. Order per key holds among transactions that exclude each other before they add, as those do that
    first update the row which the event is about. For transactions that run side by side, "first" has no meaning.

    Args:
        catalogue: which topics there are.
        registry: where schemas get their ids, or a codec made elsewhere.
        source: the emitting service: ``ce_source`` of every event.
        clock: gives ``ce_time``.

    Raises:
        UsageError: ``source`` is empty.
    """

    def __init__(
        self, catalogue: Catalogue, registry: SchemaRegistry | Codec, *, source: str, clock: Clock | None = None
    ) -> None:
        self._catalogue = catalogue
        self._codec = registry if isinstance(registry, Codec) else Codec(catalogue, registry)
        self._envelope = Envelope(source, clock or SystemClock())
        self._contracts: dict[str, Contract] = {}
        self._own_registry: Registry | None = None

    @classmethod
    def from_env(cls, *, source: str, env: Environment | None = None) -> Self:
        """By the ``HEADWATER_*`` settings of catalogue and registry. ``close`` it, or use it as a context manager, for
        the connection to the registry.

        Raises:
            SettingError: a setting is unknown or malformed.
            UsageError: the catalogue is wrong.
        """
        env = env or Environment()
        registry = Registry(RegistrySettings.from_env(env))
        outbox = cls(Catalogue.from_env(env), registry, source=source)
        outbox._own_registry = registry
        return outbox

    def close(self) -> None:
        """Let go of the registry, if it is ours (see ``from_env``). Rows are the database's: nothing waits here."""
        if self._own_registry is not None:
            self._own_registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def add(
        self,
        session: AddsEvents,
        topic: str,
        value: Mapping[str, Any] | msgspec.Struct | None,
        key: str | bytes | None = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        id: str | None = None,  # noqa: A002 - CloudEvents' own name for it
        time: datetime | float | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Add an event to the transaction of ``session``; gives its id.

        No I/O takes place, but for one registry request at a topic's first use: the row is written when the session is
        flushed. Returning promises nothing; a commit does.

        Args:
            session: of the database where the outbox is; sync or async.
            topic, value, key, headers, id, time, traceparent: as ``EventProducer.emit``. Keys and header values are
                text (or bytes that are), since the table must be readable for others.

        Raises:
            InvalidValue, UnknownTopic, UsageError, RegistryUnavailable: as ``EventProducer.emit``.
        """
        contract = self._contracts.get(topic) or self._contract(topic)
        raw_key = contract.key_bytes(key)
        payload = contract.payload(value)
        event_id = self._envelope.new_id(next(self._envelope.numbers)) if id is None else id
        names = self._envelope.custom_headers(event_id, contract.ce_type, time, traceparent, headers)
        session.add(
            OutboxEvent(
                id=event_id,
                aggregatetype=topic,
                aggregateid=_text(raw_key),
                type=topic,
                payload=payload,
                headers={name: _header(name, content) for name, content in names if name != CE_ID},
                lane=lane_of(raw_key),
            )
        )
        return event_id

    def prepare(self, *topics: str) -> None:
        """Ask the registry for the schemas of ``topics`` now, so that the first ``add`` does not block. Blocks.

        Raises:
            UnknownTopic, IncompatibleSchema, RegistryUnavailable: as the first ``add`` would.
        """
        for topic in topics:
            if topic not in self._contracts:
                self._contract(topic)

    def _contract(self, topic: str) -> Contract:
        contract = Contract(self._catalogue.topic(topic), self._codec)
        return self._contracts.setdefault(topic, contract)


def _text(key: bytes | None) -> str | None:
    if key is None:
        return None
    try:
        text = key.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"key={key!r}: the outbox keeps keys as text: pass UTF-8") from exc
    if len(text) > _KEY_LENGTH:
        raise UsageError(f"a key of {len(text)} characters: the outbox keeps keys of up to {_KEY_LENGTH}")
    return text


def _header(name: str, content: str | bytes | None) -> str | None:
    if isinstance(content, bytes):
        raise UsageError(f"header {name!r}: the outbox keeps headers as text: pass a str")
    return content
