"""Random histories on the memory log: failing handlers, delays, crashes at any moment, late commits.

Whatever happens: every record is done or dead, per key the first effects come in order, and only what must die dies.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from headwater_streams.handlers.failure import header
from headwater_streams.testing import StreamKit
from streams.histories import Bills, all_committed, dead
from streams.orders import TOPIC, first_seen, order

KEYS = ("a", "b", "c")


class History:
    """One run. Effects, failures and deaths are recorded outside of the engine."""

    def __init__(
        self, seed: int, *, records: int, failing: float, hopeless: float, partitions: int, hold: bool = False
    ) -> None:
        self.random = random.Random(seed)
        self.sent: dict[str, list[int]] = {}
        self.records = records
        self.partitions = partitions
        self.hold = hold
        self.sent_back: set[tuple[int, int]] = set()
        self.bills = Bills(self.random, records, failing=failing, hopeless=hopeless, times=(1, 1, 2))
        self.kit = StreamKit(
            self.bills.app("hold" if hold else "flow"), partitions=partitions, batch=self.random.choice((1, 3, 50))
        )

    async def run(self) -> None:
        await self.kit.start()
        for number in range(self.records):
            key = self.random.choice(KEYS)
            self.sent.setdefault(key, []).append(number)
            self.kit.send(TOPIC, order(key, number), key=key)
            await self._something()
        for _ in range(40 + 10 * self.records):
            self.operate()
            await self.kit.advance("1s")
            await self.kit.commit()
            if self.hold and self.random.random() < 0.1:
                await self.kit.crash()
                await self.kit.start()
            if all_committed(self.kit.broker):
                break
        await self.kit.crash()

    async def _something(self) -> None:
        """A step of the world: run a little, turn the clock, commit, or die."""
        dice = self.random.random()
        if dice < 0.5:
            for _ in range(self.random.randrange(12)):
                await self.kit._fetch()
                await asyncio.sleep(0)
        elif dice < 0.6:
            self.kit.clock.advance(self.random.choice((0.2, 1.0, 6.0)))
            self.kit._ring()
        elif dice < 0.75:
            await self.kit.commit()
        elif dice < 0.85:
            await self.kit.crash()
            await self.kit.start()

    def operate(self) -> None:
        """Where keys are held: make good what dies, one letter at a time, and send each letter back once."""
        decode = self.kit.codec.decoder(TOPIC)
        for letter in self.kit.dead_letters(TOPIC) if self.hold else ():
            place = (letter.partition(), letter.offset())
            if place in self.sent_back or self.random.random() < 0.5:
                continue
            self.sent_back.add(place)
            self.bills.hopeless.discard(decode(letter.value())["number"])
            gone = ("hw-fence", "hw-hold", "hw-attempt", "hw-due-at")
            headers = [(name, value) for name, value in letter.headers() or [] if name not in gone]
            due = [*headers, ("hw-attempt", b"0"), ("hw-due-at", b"0")]
            tier = f"{TOPIC}.billing.retry.1s"
            self.kit.broker.send(tier, letter.value(), letter.key(), due, letter.partition())

    def check(self) -> None:
        assert all_committed(self.kit.broker), "the group did not come to the end of its topics"
        assert dead(self.kit) == self.bills.hopeless
        seen = first_seen(self.bills.effects)
        for key, numbers in self.sent.items():
            assert seen.get(key, []) == [number for number in numbers if number not in self.bills.hopeless], key
        for message in self.kit.dead_letters(TOPIC):
            assert header(message.headers(), "hw-reason") == b"handler"


@pytest.mark.parametrize("partitions", [1, 3])
@given(seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_order_and_settling_survive_failures_and_crashes(partitions: int, seed: int) -> None:
    note(f"seed {seed}")
    history = History(seed, records=25, failing=0.25, hopeless=0.05, partitions=partitions)
    asyncio.run(history.run())
    history.check()


@pytest.mark.parametrize("partitions", [1, 3])
@given(seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_a_held_key_skips_nothing_whatever_crashes_and_whenever_the_operator_comes(partitions: int, seed: int) -> None:
    note(f"seed {seed}")
    history = History(seed, records=20, failing=0.2, hopeless=0.15, partitions=partitions, hold=True)
    asyncio.run(history.run())

    assert all_committed(history.kit.broker), "the group did not come to the end of its topics"
    assert history.bills.hopeless == set()
    seen = first_seen(history.bills.effects)
    for key, numbers in history.sent.items():
        assert seen.get(key, []) == numbers, key
