"""How many dead letters wait for somebody, and since when: two figures per topic, without reading the letters."""

from __future__ import annotations

from dataclasses import dataclass

from faust.types import TP

from headwater_schemas import wire
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.handlers.failure import header
from headwater_streams.readable import text
from headwater_streams.transport.log import Log

__all__ = ["SUFFIX", "Standing", "standing"]

SUFFIX = ".dlt"
"""How the names of dead-letter topics end."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One dead-letter topic.

    Attributes:
        group: of its oldest open letter; ``None`` when there is none.
        open: letters that were neither redriven nor edited.
        oldest: when the oldest of them died, in seconds since the epoch.
    """

    topic: str
    group: str | None
    open: int
    oldest: float | None


def standing(log: Log, ledger: Ledger) -> list[Standing]:
    """Every dead-letter topic. Blocks; ``ledger.refresh`` first. One fetch for the partitions with open letters.

    Every offset of a dead-letter topic is a letter: its writers use no transactions, and it is not compacted.

    Raises:
        BrokerUnavailable: no answer in time.
    """
    topics = {name: count for name, count in log.topics().items() if name.endswith(SUFFIX)}
    partitions = [TP(name, number) for name, count in topics.items() for number in range(count)]
    starts, ends = log.starts(partitions), log.ends(partitions)
    first = log.first({tp: (ledger.first_open(tp, starts[tp], ends[tp]), ends[tp]) for tp in partitions})
    found = []
    for name in sorted(topics):
        mine = [tp for tp in partitions if tp.topic == name]
        oldest = min((first[tp] for tp in mine if tp in first), key=lambda m: m.timestamp()[1], default=None)
        found.append(
            Standing(
                topic=name,
                group=None if oldest is None else text(header(oldest.headers(), wire.HW_GROUP)),
                open=sum(ends[tp] - starts[tp] - ledger.count(tp, starts[tp], ends[tp]) for tp in mine),
                oldest=None if oldest is None else oldest.timestamp()[1] / 1000,
            )
        )
    return found
