"""Keys that are held while a dead letter of them waits for its redrive, on the memory log."""

from __future__ import annotations

from typing import Any

import pytest

from headwater_schemas.errors import UsageError
from headwater_streams import Retry, StreamApp
from headwater_streams.handlers.runner import Runner
from headwater_streams.testing import StreamKit
from streams.orders import TOPIC, first_seen, memory_app, order, text


class Held:
    """A handler that holds a key whose record dies; orders in ``bad`` do."""

    def __init__(self) -> None:
        self.bad = {0}
        self.effects: list[tuple[str, int]] = []
        self.kit = StreamKit(self._app())

    def _app(self) -> StreamApp:
        app = memory_app()

        @app.handler(TOPIC, retry=Retry("1s"), on_dead="hold")
        async def bill(value: dict[str, Any]) -> None:
            if value["number"] in self.bad:
                raise ValueError("no price")
            self.effects.append((value["key"], value["number"]))

        return app

    async def dies(self) -> None:
        """The first order of a dies; two more of a come, and one of b."""
        await self.kit.start()
        self.kit.send(TOPIC, order("a", 0), key="a")
        self.kit.send(TOPIC, order("a", 1), key="a")
        await self.kit.advance("1s")
        self.kit.send(TOPIC, order("a", 2), key="a")
        self.kit.send(TOPIC, order("b", 3), key="b")
        await self.kit.advance("1s")
        await self.kit.commit()

    def send_back(self, *headers: tuple[str, bytes]) -> None:
        """As an operator does: to the shortest tier, unmarked, due at once."""
        letter = self.kit.dead_letters(TOPIC)[-1]
        gone = ("hw-fence", "hw-hold", "hw-attempt", "hw-due-at")
        kept = [(name, value) for name, value in letter.headers() or [] if name not in gone]
        own = [*kept, ("hw-attempt", b"0"), ("hw-due-at", b"0"), *headers]
        self.kit.send_raw(f"{TOPIC}.billing.retry.1s", letter.value(), key=letter.key(), headers=own)

    async def restart(self) -> None:
        await self.kit.crash()
        await self.kit.start()
        await self.kit.settle()

    @property
    def held(self) -> list[int]:
        assert self.kit._pool is not None
        return [runner.held_keys for runner in self.kit._pool.runners if isinstance(runner, Runner)]


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_a_key_whose_record_died_is_held_until_that_record_is_redriven_with_success(restarts: int) -> None:
    world = Held()
    await world.dies()
    for _ in range(restarts):
        await world.restart()
    before, held = first_seen(world.effects), world.held
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.commit()
    unsettled = {tp: len(world.kit.records(tp.topic)) - at for tp, at in world.kit.committed.items()}
    await world.restart()
    world.kit.send(TOPIC, order("a", 4), key="a")
    await world.kit.settle()
    letters = world.kit.dead_letters(TOPIC)
    await world.kit.crash()

    assert before == {"b": [3]}
    assert held == [1]
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2, 4]}
    assert len(letters) == 1
    assert text(letters[0].headers(), "hw-hold") == "holds"
    assert set(unsettled.values()) == {0}
    assert world.kit.crashes == []


async def test_a_redrive_that_dies_again_holds_the_key_on() -> None:
    world = Held()
    await world.dies()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.advance("1s")
    died, held = len(world.kit.dead_letters(TOPIC)), world.held
    before = first_seen(world.effects)
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    after = world.held
    await world.kit.crash()

    assert (died, held, before) == (2, [1], {"b": [3]})
    assert after == [0]
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2]}


async def test_a_released_key_goes_on_without_the_record_that_died_also_after_a_restart() -> None:
    world = Held()
    await world.dies()
    world.send_back(("hw-hold", b"releases"))
    await world.kit.advance("1s")
    await world.restart()
    held = world.held
    await world.kit.crash()

    assert held == [0]
    assert first_seen(world.effects) == {"b": [3], "a": [1, 2]}


async def test_the_next_record_of_a_released_key_may_hold_it_again() -> None:
    world = Held()
    world.bad = {0, 1}
    await world.dies()
    world.bad.discard(0)
    world.send_back()
    for _ in range(3):
        await world.kit.advance("1s")
    between, held = first_seen(world.effects), world.held
    await world.restart()
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.crash()

    assert (between, held) == ({"b": [3], "a": [0]}, [1])
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2]}


async def test_what_was_parked_behind_a_held_key_and_is_done_is_not_handled_again_after_a_restart() -> None:
    world = Held()
    await world.dies()
    world.bad.add(5)
    world.kit.send(TOPIC, order("b", 5), key="b")
    world.kit.send(TOPIC, order("b", 6), key="b")
    await world.kit.settle()
    world.bad.discard(5)
    await world.kit.advance("1s")
    await world.kit.commit()
    await world.restart()
    held = world.held
    await world.kit.crash()

    assert held == [1]
    assert world.effects == [("b", 3), ("b", 5), ("b", 6)]


@pytest.mark.parametrize("options", [{"ordered": False}, {"retry": Retry()}, {"on_dead": "stop"}])
def test_holding_needs_an_order_and_a_tier(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="on_dead="):
        memory_app().handler(TOPIC, **{"on_dead": "hold", **options})(_nothing)


async def _nothing(value: dict[str, Any]) -> None: ...
