"""The fixtures by which users prove their apps: clean for an app that is right, and not for one that loses."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

CONFIG = """
[pytest]
headwater_services = kafka
"""

APP = """
import asyncio
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_streams import Retry, StreamApp
from headwater_streams.testing.effects import note_effect

def made(group, topic):
    catalogue = Catalogue.of(topics=[TopicSpec(name=topic, schema="Order")], schemas=[
        {"type": "record", "name": "Order", "fields": [{"name": "number", "type": "long"}]}])
    return StreamApp(group, catalogue=catalogue, codec=Codec(catalogue, LocalRegistry()))

right = made("right", "orders.right")
careless = made("careless", "orders.careless")
encode = right.codec.encoder("orders.right")
careless.codec.encoder("orders.careless")  # a registry of its own: it must know the schema

@right.handler("orders.right", retry=Retry("200ms"))
async def charge(order, event):
    await asyncio.sleep(0.005)
    if order["number"] == 13:
        raise ValueError("unlucky")
    note_effect(event.id)

@careless.handler("orders.careless")
async def try_to_charge(order, event):
    try:
        if order["number"] == 13:
            raise ValueError("unlucky")
    except ValueError:
        return  # nobody is told
    note_effect(event.id)
"""

TESTS = """
from shop import encode

def value(key, number):
    return encode({"number": number})

def test_right(headwater_faults):
    verdict = headwater_faults("shop:right", group="right", topic="orders.right", value=value,
        faults=["worker-sigkill", "network-reset"], events=600, rate=300)
    assert verdict.passed, verdict
    assert verdict.dead > 0

def test_careless(headwater_faults):
    verdict = headwater_faults("shop:careless", group="careless", topic="orders.careless", value=value,
        faults=["worker-sigterm"], events=600, rate=300, quiet="4s")
    assert verdict.lost > 0, verdict
    assert not verdict.passed
"""


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_an_app_that_is_right_passes_and_one_that_swallows_errors_loses(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=APP, test_shop=TESTS)
    pytester.makeini(CONFIG)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=2)


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """Every pytest run of whoever has it installed imports it."""
    heavy = "{name for name in sys.modules if name.split('.')[0] in ('faust', 'confluent_kafka', 'jgo', 'typer')}"
    code = f"import sys, headwater_ops.testing.plugin; print({heavy})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
