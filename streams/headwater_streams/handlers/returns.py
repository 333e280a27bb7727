"""Records that come back: from a delay tier when their delay is over, from the parking log at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.clock import Clock
from headwater_streams.handlers.failure import FENCE, HOLD, header
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences
from headwater_streams.handlers.lanes import NOWHERE, Origin, Record
from headwater_streams.handlers.message import Headers, Message
from headwater_streams.handlers.settler import PartitionControl
from headwater_streams.handlers.tier import DueHeap
from headwater_streams.metrics import HandlerMetrics

__all__ = ["Returns"]

_HELD = 2_000  # records of one tier or parking partition that may wait in memory before it is paused


class Returns:
    """What was read back of one handler's tiers and parking log, and is not with the handler yet.

    Args:
        on_due: called with a record that may enter the lane of its key.
        on_hop: called with a record whose tier is over but whose delay is not.
    """

    def __init__(
        self,
        handler: str,
        family: Family,
        control: PartitionControl,
        clock: Clock,
        metrics: HandlerMetrics,
        on_due: Callable[[Record], None],
        on_hop: Callable[[Record], None],
    ) -> None:
        self._handler = handler
        self._family = family
        self._control = control
        self._clock = clock
        self._metrics = metrics
        self._on_due = on_due
        self._on_hop = on_hop
        self._heaps = {name: DueHeap() for _, name in family.tiers}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._held: dict[TP, int] = {}
        self._paused: set[TP] = set()
        self._shortest = family.tiers[0][0] if family.tiers else 0.0

    @property
    def held(self) -> int:
        """Records read back and not settled."""
        return sum(self._held.values())

    def take(self, message: Message, tp: TP, fences: Fences, ordered: bool) -> None:
        """Accept one record that was read back."""
        headers = message.headers()
        if _text(headers, wire.HW_HANDLER) != self._handler:
            return  # another handler's; its own runner holds the offset back
        if fences.is_stale(message, tp):
            self._metrics.stale_retries += 1
            return
        # What an operator redrove has no mark, and the fences do not know of it.
        counted = header(headers, FENCE) is not None or message.offset() < fences.ends.get(tp, 0)
        first_failed_at = _text(headers, wire.HW_FIRST_FAILED_AT)
        record = Record(
            message,
            tp,
            NOWHERE,
            Origin.PARKED if tp.topic == self._family.parked else Origin.TIER,
            attempt=int(_text(headers, wire.HW_ATTEMPT) or 0),
            first_failed_at=float(first_failed_at) if first_failed_at else None,
            counted=counted and ordered,
            hold=header(headers, HOLD),
        )
        self._hold(tp)
        if record.origin is Origin.PARKED:
            self._on_due(record)
            return
        record.due = float(_text(headers, wire.HW_DUE_AT) or 0)
        over = message.timestamp()[1] / 1000 + self._family.hop_of(tp.topic)
        # What is left after this tier and is shorter than any tier is waited for here.
        at = record.due if record.due <= over + self._shortest else over
        self._heaps[tp.topic].push(at, record)
        self._arm(tp.topic)

    def settled(self, tp: TP) -> None:
        """One record of ``tp`` is settled: perhaps there is room to fetch more."""
        held = self._held[tp] = self._held.get(tp, 1) - 1
        if tp in self._paused and held <= _HELD // 2:
            self._paused.discard(tp)
            self._control.resume([tp])

    def _hold(self, tp: TP) -> None:
        held = self._held[tp] = self._held.get(tp, 0) + 1
        if held >= _HELD and tp not in self._paused:
            self._paused.add(tp)
            self._control.pause([tp])

    def _arm(self, tier: str) -> None:
        timer = self._timers.pop(tier, None)
        if timer is not None:
            timer.cancel()
        due = self._heaps[tier].next_due
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timers[tier] = loop.call_later(max(0.0, due - self._clock.time()), self.ring, tier)

    def ring_all(self) -> None:
        """Look at every tier now."""
        for tier in self._heaps:
            self.ring(tier)

    def ring(self, tier: str) -> None:
        """A tier's timer: let go what is due."""
        now = self._clock.time()
        for _, record in self._heaps[tier].pop_due(now):
            if record.due > now + 0.001:
                self._on_hop(record)
                continue
            self._metrics.delay_error(tier, now - record.due)
            self._on_due(record)
        self._arm(tier)

    def unsettled(self) -> Iterator[tuple[TP, int]]:
        """Partition and offset of each record that waits to be due."""
        for heap in self._heaps.values():
            for record in heap.records():
                yield record.tp, record.offset

    def forget(self, partitions: Collection[TP]) -> None:
        """Drop what was read of partitions that are no longer ours."""
        for tp in partitions:
            self._held.pop(tp, None)
            self._paused.discard(tp)
            if tp.topic in self._heaps:
                self._heaps[tp.topic].drop(tp.partition)
                self._arm(tp.topic)

    def close(self) -> None:
        """Stop the timers."""
        for timer in self._timers.values():
            timer.cancel()


def _text(headers: Headers | None, name: str) -> str:
    return (header(headers, name) or b"").decode("utf-8", "replace")
