"""Random histories of workers that lose their partitions without knowing it: frozen, or cut off from the brokers.

Such a worker goes on with what it has fetched, and what it wrote arrives late: after its successors have begun, perhaps
after some of them are gone again. Its commits are refused. Whatever happens: every record is done or dead, and per key
the first effects come in order.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from faust.types import TP
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from headwater_schemas.clock import ManualClock
from headwater_streams.handlers.message import Message
from headwater_streams.testing import StreamKit
from headwater_streams.testing.broker import MemoryBroker
from streams.histories import Bills, all_committed, dead
from streams.orders import TOPIC, first_seen, order

KEYS = ("a", "b", "c")


class Connection(MemoryBroker):
    """One worker's view of the log that all share. ``cut`` it, and nothing is fetched and what is sent waits."""

    def __init__(self, shared: MemoryBroker, clock: ManualClock) -> None:
        super().__init__(clock)
        self.topics, self.offsets, self.told = shared.topics, shared.offsets, shared.told
        self.cut = False
        self.owner = True
        self._on_the_way: deque[Callable[[], None]] = deque()

    def send(self, *args: Any, **kwargs: Any) -> None:
        send = super().send
        self._on_the_way.append(lambda: send(*args, **kwargs))
        if not self.cut:
            self.deliver(len(self._on_the_way))

    def deliver(self, most: int) -> None:
        """Let what is on the way arrive, in its order."""
        for _ in range(min(most, len(self._on_the_way))):
            self._on_the_way.popleft()()

    def fetch(self, tp: TP, position: int, limit: int) -> list[Message]:
        return [] if self.cut else super().fetch(tp, position, limit)

    def commit_soon(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> bool:
        return super().commit_soon(offsets, told) if self.owner else True  # refused, which it learns later

    async def commit_told(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None:
        if not self.owner:
            await asyncio.Event().wait()  # refused again and again, until it learns that it has lost the partitions
        await super().commit_told(offsets, told)


class History:
    """One run: an owner of all partitions, and those who still believe to be."""

    def __init__(self, seed: int, *, records: int, partitions: int) -> None:
        self.random = random.Random(seed)
        self.records = records
        self.partitions = partitions
        self.clock = ManualClock()
        self.log = MemoryBroker(self.clock)
        self.sent: dict[str, list[int]] = {}
        self.bills = Bills(self.random, records, failing=0.25, hopeless=0.05, times=(1, 1, 2, 4))
        self.batch = self.random.choice((1, 3, 50))
        self.zombies: list[tuple[StreamKit, Connection]] = []
        self.kit, self.connection = self._worker()

    def _dice(self, chance: float) -> bool:
        return self.random.random() < chance

    def _worker(self) -> tuple[StreamKit, Connection]:
        connection = Connection(self.log, self.clock)
        kit = StreamKit(
            self.bills.app(), partitions=self.partitions, batch=self.batch, clock=self.clock, broker=connection
        )
        kit.codec.encoder(TOPIC)  # every worker's registry in memory gives the schema the same id
        return kit, connection

    async def run(self) -> None:
        await self.kit.start()
        for number in range(self.records):
            key = self.random.choice(KEYS)
            self.sent.setdefault(key, []).append(number)
            self.kit.send(TOPIC, order(key, number), key=key)
            for _ in range(self.random.choice((1, 1, 3))):
                await self._something()
        for kit, connection in self.zombies:
            connection.deliver(1_000)
            await kit.crash()
        for _ in range(40 + 10 * self.records):
            await self.kit.advance("1s")
            await self.kit.commit()
            if all_committed(self.log):
                break
        await self.kit.crash()

    async def _something(self) -> None:
        dice = self.random.random()
        if dice < 0.5:
            await self._run_a_little()
        elif dice < 0.6:
            self.clock.advance(self.random.choice((0.2, 1.0, 6.0)))
            for kit, _ in [(self.kit, self.connection), *self.zombies]:
                kit._ring()
        elif dice < 0.7:
            for kit, _ in [(self.kit, self.connection), *self.zombies]:
                await kit.commit()
        elif dice < 0.8:
            await self._take_over()
        elif self.zombies:
            await self._go_on_with(self.random.randrange(len(self.zombies)))

    async def _run_a_little(self) -> None:
        for _ in range(self.random.randrange(12)):
            for kit, _ in [(self.kit, self.connection), *self.zombies]:
                if self._dice(0.7):
                    await kit._fetch()
            await asyncio.sleep(0)

    async def _take_over(self) -> None:
        """Another worker receives everything; the one before knows it, or does not."""
        if self._dice(0.4):
            await self.kit.revoke(0.0)
        else:
            self.connection.owner = False
            self.connection.cut = self._dice(0.8)
            self.zombies.append((self.kit, self.connection))
        self.kit, self.connection = self._worker()
        await self.kit.start()

    async def _go_on_with(self, number: int) -> None:
        """Something reaches, or is reached by, one that has lost all: its writes, its reads, the news."""
        kit, connection = self.zombies[number]
        dice = self.random.random()
        if dice < 0.5:
            connection.deliver(self.random.choice((1, 2, 100)))
        elif dice < 0.8:
            connection.cut = False
            connection.deliver(1_000)
        else:
            del self.zombies[number]
            await kit.crash()
            connection.deliver(self.random.choice((0, 1_000)))  # what it had written arrives, or is given up


@pytest.mark.parametrize("partitions", [1, 3])
@given(seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_a_worker_that_does_not_know_its_end_puts_nothing_out_of_order(partitions: int, seed: int) -> None:
    note(f"seed {seed}")
    history = History(seed, records=25, partitions=partitions)
    asyncio.run(history.run())

    assert all_committed(history.log), "the group did not come to the end of its topics"
    dead_ones = dead(history.kit)  # two workers together may use up the tries of an event, and a third one make it good
    assert history.bills.hopeless <= dead_ones
    seen = first_seen([(key, number) for key, number in history.bills.effects if number not in dead_ones])
    for key, numbers in history.sent.items():
        assert seen.get(key, []) == [number for number in numbers if number not in dead_ones], key
