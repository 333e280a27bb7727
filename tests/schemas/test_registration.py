from __future__ import annotations

from collections.abc import Callable

import pytest

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.errors import IncompatibleSchema
from headwater_schemas.registration import register_all
from headwater_schemas.registry import LocalRegistry, Registry
from headwater_schemas.settings import RegistrySettings
from schemas.samples import ORDER


def orders(name: str, *more: dict[str, object]) -> Catalogue:
    schema = ORDER | {"fields": [*ORDER["fields"], *more]}
    return Catalogue.of(topics=[TopicSpec(name, "OrderPlaced", compatibility="FULL")], schemas=[schema])


def test_every_topic_gets_its_level_and_schema() -> None:
    registry = LocalRegistry()

    (done,) = register_all(orders("orders.placed"), registry)

    assert (done.topic, done.subject, done.level) == ("orders.placed", "orders.placed-value", "FULL")
    assert registry.compatibility("orders.placed-value") == "FULL"
    assert registry.lookup("orders.placed-value", ORDER) == done.schema_id


def test_registering_twice_changes_nothing() -> None:
    registry = LocalRegistry()

    assert register_all(orders("orders.placed"), registry) == register_all(orders("orders.placed"), registry)
    assert len(registry.versions("orders.placed-value")) == 1


def test_a_real_registry_judges_by_the_level(registry_url: str, unique: Callable[[str], str]) -> None:
    name = unique("orders")
    with Registry(RegistrySettings(registry_url)) as registry:
        register_all(orders(name), registry)

        with pytest.raises(IncompatibleSchema):
            register_all(orders(name, {"name": "extra", "type": "int"}), registry)
        register_all(orders(name, {"name": "extra", "type": ["null", "int"], "default": None}), registry)


def test_the_shipped_catalogue_can_be_registered(registry_url: str) -> None:
    with Registry(RegistrySettings(registry_url)) as registry:
        done = register_all(Catalogue.load(), registry)

    assert [row.topic for row in done] == [spec.name for spec in Catalogue.load().topics()]
