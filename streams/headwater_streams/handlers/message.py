"""A record as it was fetched: what the handlers need of librdkafka's message, and what the test kit offers too."""

from __future__ import annotations

from typing import Protocol

from faust.types import TP

__all__ = ["Headers", "Message", "tp_of"]

Headers = list[tuple[str, bytes]]


class Message(Protocol):
    """A fetched record. Calls, not attributes, because librdkafka's are; each costs about 40 ns."""

    def topic(self) -> str: ...

    def partition(self) -> int: ...

    def offset(self) -> int: ...

    def key(self) -> bytes | None: ...

    def value(self) -> bytes | None: ...

    def headers(self) -> Headers | None: ...

    def timestamp(self) -> tuple[int, int]:
        """Its kind and its milliseconds since the epoch."""
        ...


def tp_of(message: Message) -> TP:
    """The partition that a record was read from."""
    return TP(message.topic(), message.partition())
