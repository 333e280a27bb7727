"""The registry is killed: what is known goes on, what is not waits, nothing is condemned."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest

from headwater_ops.stack import Stack
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import RegistryUnavailable
from headwater_schemas.registry import Registry
from headwater_schemas.settings import RegistrySettings
from schemas.samples import ORDER, order


async def test_a_killed_registry_pauses_what_is_unknown_and_nothing_else(
    stack: Stack, unique: Callable[[str], str]
) -> None:
    endpoints = stack.endpoints()
    assert endpoints is not None
    settings = RegistrySettings(endpoints.registry_url, timeout=2.0)
    known, unknown = copy.deepcopy(ORDER), copy.deepcopy(ORDER)
    unknown["name"] = unique("Order").replace("-", "_")
    contracts = Catalogue.of(
        topics=[TopicSpec("orders.known", known["name"]), TopicSpec("orders.unknown", unknown["name"])],
        schemas=[known, unknown],
    )
    with Registry(settings) as writing, Registry(settings) as reading:
        writer, reader = Codec(contracts, writing), Codec(contracts, reading)
        first = writer.encoder("orders.known")(order(order_id="before"))
        foreign = writer.encoder("orders.unknown")(order(order_id="foreign"))
        decode = reader.decoder()
        assert decode(first)["order_id"] == "before"

        stack.kill("registry")

        # Known schemas go on, both ways.
        second = writer.encoder("orders.known")(order(order_id="during"))
        assert decode(second)["order_id"] == "during"
        # An unknown one is nobody's fault, and is found out within the time limit, on and off the loop.
        missing = reader.missing_schema(foreign)
        assert missing is not None
        started = time.monotonic()
        with pytest.raises(RegistryUnavailable):
            await reader.prefetch([missing])
        with pytest.raises(RegistryUnavailable):
            decode(foreign)
        with pytest.raises(RegistryUnavailable):
            reader.encoder("orders.unknown")
        assert time.monotonic() - started < 3 * settings.timeout + 2
        assert reader.missing_schema(foreign) == missing

        stack.start("registry")

        await reader.prefetch([missing])
        assert reader.missing_schema(foreign) is None
        assert decode(foreign)["order_id"] == "foreign"
        assert reader.encoder("orders.unknown")(order())[:5] == foreign[:5]
