"""How many dead letters wait for somebody, and since when: two figures per topic, without reading the letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.errors import HeadwaterError, UsageError
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.handlers.failure import header
from headwater_streams.readable import text
from headwater_streams.transport.log import Log, tell

__all__ = ["SUFFIX", "Standing", "standing"]

SUFFIX = ".dlt"
"""How the names of dead-letter topics end."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One dead-letter topic.

    Attributes:
        group: of its oldest open letter; ``None`` when there is none, or it cannot be read.
        open: letters that were neither redriven nor edited.
        oldest: when the oldest of them died, in seconds since the epoch; ``None`` as for ``group``.
    """

    topic: str
    group: str | None
    open: int
    oldest: float | None


def standing(
    log: Log, ledger: Ledger, *, groups: Sequence[str] = ("*",), failed: list[HeadwaterError] | None = None
) -> list[Standing]:
    """Every dead-letter topic. Blocks; ``ledger.refresh`` first. One fetch for the partitions with open letters.

    Every offset of a dead-letter topic is a letter: its writers use no transactions, and it is not compacted.

    Args:
        groups: only those of groups that fit one of these shell patterns.
        failed: a topic whose letters cannot be read is only counted, and its error put here; ``None`` raises it.

    Raises:
        BrokerUnavailable: no answer in time.
        UsageError: NotPermitted, UnknownTopic: see ``failed``.
    """
    named = [f"*.{group}{SUFFIX}" for group in groups]
    topics = {name: count for name, count in log.topics().items() if _fits(name, named)}
    partitions = [TP(name, number) for name, count in topics.items() for number in range(count)]
    starts, ends = log.starts(partitions), log.ends(partitions)
    spans = {tp: (ledger.first_open(tp, starts[tp], ends[tp]), ends[tp]) for tp in partitions}
    refused: dict[TP, UsageError] = {}
    first = log.first(spans, refused=refused)
    tell(refused, failed)
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
    # The name alone does not say where the group begins: *.b*.dlt is orders.booked.audit.dlt too.
    return [each for each in found if each.group is None or _fits(each.group, groups)]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
