"""What random histories on the memory log have in common: a handler that fails by dice, judged from outside."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Literal

from faust.types import TP

from headwater_streams import Retry, StreamApp
from headwater_streams.testing import StreamKit
from headwater_streams.testing.broker import MemoryBroker
from streams.orders import TOPIC, memory_app

__all__ = ["Bills", "all_committed", "dead"]


class Bills:
    """Effects, failures and deaths, recorded outside of the engine.

    Args:
        records: numbered from 0.
        failing: the share that fails as often as one of ``times`` says.
        hopeless: the share that always fails.
    """

    def __init__(
        self, rng: random.Random, records: int, *, failing: float, hopeless: float, times: tuple[int, ...]
    ) -> None:
        self._random = rng
        self.effects: list[tuple[str, int]] = []
        self.budget = {number: rng.choice(times) for number in range(records) if rng.random() < failing}
        self.hopeless = {number for number in range(records) if rng.random() < hopeless}

    def app(self, on_dead: Literal["flow", "hold"] = "flow") -> StreamApp:
        """An app that bills; several share what happened."""
        app = memory_app()

        @app.handler(
            TOPIC,
            retry=Retry("1s", "5s"),
            concurrency=self._random.choice((1, 2, 10)),
            max_waiting=5,
            on_dead=on_dead,
        )
        async def bill(value: dict[str, Any]) -> None:
            number = value["number"]
            for _ in range(self._random.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
            if number in self.hopeless:
                raise ValueError("hopeless")
            if self.budget.get(number, 0):
                self.budget[number] -= 1
                raise ValueError("not now")
            self.effects.append((value["key"], number))

        return app


def all_committed(broker: MemoryBroker) -> bool:
    """Whether the group has come to the end of the topic and its retry topics."""
    return all(
        broker.offsets.get(tp, 0) == len(log)
        for topic, logs in broker.topics.items()
        for tp, log in ((TP(topic, number), log) for number, log in enumerate(logs))
        if not topic.endswith(".dlt") and topic.startswith(TOPIC)
    )


def dead(kit: StreamKit) -> set[int]:
    """The numbers among the dead letters."""
    decode = kit.codec.decoder(TOPIC)
    return {decode(message.value())["number"] for message in kit.dead_letters(TOPIC)}
