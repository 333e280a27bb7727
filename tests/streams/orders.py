"""The small domain of these tests: events numbered per key, so that order can be judged from outside."""

from __future__ import annotations

import asyncio
from typing import Any

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.registry import LocalRegistry
from headwater_streams import StreamApp
from headwater_streams.handlers.failure import header
from headwater_streams.testing import StreamKit

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "key", "type": "string"}, {"name": "number", "type": "long"}],
}
TOPIC = "orders.placed"
OUT = "orders.billed"


def catalogue(*topics: str, partitions: int = 1) -> Catalogue:
    """Topics of orders."""
    return Catalogue.of(
        topics=[TopicSpec(name=name, schema="Order", partitions=partitions, replication=1) for name in topics],
        schemas=[ORDER],
    )


def memory_app(*topics: str, name: str = "billing") -> StreamApp:
    """An app for ``StreamKit``: no servers."""
    from headwater_schemas.codec import Codec

    known = catalogue(*(topics or (TOPIC, OUT)))
    return StreamApp(name, catalogue=known, codec=Codec(known, LocalRegistry()))


def order(key: str, number: int) -> dict[str, Any]:
    """One event."""
    return {"key": key, "number": number}


def text(headers: Any, name: str) -> str | None:
    """A header as text."""
    found = header(headers, name)
    return None if found is None else found.decode()


async def run_and_commit(kit: StreamKit) -> None:
    """Let what was sent run, and commit; without waiting for what is held back, as ``settle`` would."""
    for _ in range(20):
        await kit._fetch()
        await asyncio.sleep(0)
    await kit.commit()


def first_seen(effects: list[tuple[str, int]]) -> dict[str, list[int]]:
    """Per key, the numbers in the order of their first effect. Repetitions (at least once) do not count."""
    seen: dict[str, list[int]] = {}
    for key, number in effects:
        numbers = seen.setdefault(key, [])
        if number not in numbers:
            numbers.append(number)
    return seen
