"""The planted poison is what it says it is."""

from __future__ import annotations

from collections import Counter

import pytest

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.events import DemoEvent, replay
from headwater_ops.demo.poison import POISON_RECORDS, Poison, Poisoner
from headwater_ops.demo.topics import FLIGHT_TOPICS
from headwater_schemas.codec import Codec
from headwater_schemas.errors import NotDecodable, SchemaMismatch
from headwater_schemas.registry import LocalRegistry


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(demo_catalogue(), LocalRegistry())


@pytest.fixture(scope="module")
def poison(codec: Codec, sample: Dataset) -> list[Poison]:
    poisoner = Poisoner(codec.catalogue, codec.registry)
    events = [event for event in replay(sample) if event.topic in FLIGHT_TOPICS]
    return [poisoner.make(number, events[number * 97]) for number in range(POISON_RECORDS)]


def test_each_record_fails_for_the_reason_it_gives(codec: Codec, poison: list[Poison]) -> None:
    for record in poison:
        error = SchemaMismatch if record.reason == "schema" else NotDecodable
        with pytest.raises(error):
            codec.decoder(record.topic)(record.value)


def test_all_kinds_are_planted_and_no_two_are_alike(poison: list[Poison]) -> None:
    assert Counter(record.reason for record in poison) == {"decode": 17, "schema": 8}
    assert len({record.value for record in poison}) == POISON_RECORDS


def test_poison_is_the_same_in_every_run(codec: Codec, sample: Dataset) -> None:
    event = next(event for event in replay(sample) if event.topic in FLIGHT_TOPICS)
    make = Poisoner(codec.catalogue, codec.registry).make
    assert isinstance(event, DemoEvent)
    assert [make(number, event) for number in range(3)] == [make(number, event) for number in range(3)]
