"""How values become bytes."""

from __future__ import annotations

import msgspec
import pytest

from headwater_cache import AvroValues, EntityCache, MsgpackValues
from headwater_cache.testing import MemoryLog
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import InvalidValue, SchemaMismatch
from headwater_schemas.registry import LocalRegistry


class Delay(msgspec.Struct):
    minutes: int


def test_a_typed_value_comes_back_as_its_type(redis_url: str, name: str) -> None:
    """A struct in, the same struct out, checked."""
    with EntityCache(name, redis_url, values=MsgpackValues[Delay](Delay), log=MemoryLog()) as cache:
        cache.put("UA1", Delay(4))

        assert cache.get("UA1") == Delay(4)


def test_a_payload_of_another_shape_is_a_mismatch() -> None:
    """Nothing half-read reaches the caller."""
    _, payload = MsgpackValues[dict[str, str]]().encode({"minutes": "many"})

    with pytest.raises(SchemaMismatch, match="minutes"):
        MsgpackValues[Delay](Delay).decode(0, payload)


def test_avro_values_keep_their_schema_id(redis_url: str, name: str) -> None:
    """The entry holds what a change event holds: schema id and bare payload."""
    schema = {"type": "record", "name": "Delay", "fields": [{"name": "minutes", "type": "int"}]}
    catalogue = Catalogue.of(topics=[TopicSpec("delays", "Delay")], schemas=[schema])
    codec = Codec(catalogue, LocalRegistry())
    values = AvroValues(codec.encoder("delays"), codec.decoder("delays"))
    log = MemoryLog()
    with EntityCache(name, redis_url, values=values, log=log) as cache:
        with pytest.raises(InvalidValue):
            cache.put("UA1", {"hours": 1})
        cache.put("UA1", {"minutes": 4})

        assert (log.changes[0].schema_id, log.changes[0].value) == (1, b"\x08")
        assert cache.get("UA1") == {"minutes": 4}
