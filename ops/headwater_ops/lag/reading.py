"""Reading lag right: committed offsets first, then the ends, so that it is never negative.

The known exporters ask the other way round, and a group that commits in between is then ahead of the log. Seconds are
the age of the first unread record, fetched from the log: offsets of the past need no bookkeeping, and the figure is
right at once after a start. One fetch per lagging partition.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import HeadwaterError, UsageError
from headwater_streams.handlers.failure import header
from headwater_streams.handlers.message import Message
from headwater_streams.transport.errors import answer_of, kafka_error, translate
from headwater_streams.transport.log import Log, Span, tell

__all__ = ["GroupLag", "Kind", "PartitionLag", "read_lag"]

logger = logging.getLogger(__name__)

_ANSWER = 15.0

Kind = Literal["backlog", "retry", "parked"]
"""backlog: nobody has tried these records. retry: they wait in a delay tier. parked: behind an older one of a key."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition that a group has committed an offset of.

    Attributes:
        start: the first offset that is still on the log.
        records: between what is committed and the end; includes what compaction removed and transaction markers,
            unless there is nothing else.
        seconds: the age of the first unread record by its own timestamp. In a retry tier: how long that record is
            overdue. 0 when there is no lag; ``None`` when the record could not be read.
        expired: records that retention deleted before the group read them.
        owned: whether a member of the group has the partition.
    """

    topic: str
    partition: int
    kind: Kind
    committed: int
    start: int
    end: int
    records: int
    seconds: float | None
    expired: int
    owned: bool


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One consumer group. ``partitions`` is empty when it never committed; ``members`` are those of this moment."""

    group: str
    state: str
    members: int
    partitions: tuple[PartitionLag, ...]

    def total(self, kind: Kind) -> int:
        """Records of one kind."""
        return sum(lag.records for lag in self.partitions if lag.kind == kind)


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    state: str
    members: int
    owned: frozenset[TP]
    committed: dict[TP, int]


def read_lag(
    log: Log,
    groups: Collection[str] | None = None,
    *,
    patterns: Collection[str] = ("*",),
    clock: Clock | None = None,
    failed: list[HeadwaterError] | None = None,
) -> list[GroupLag]:
    """The lag of these groups, of every group of the cluster for ``None``. Blocks.

    Args:
        patterns: of every group of the cluster only those that fit one of these shell patterns.
        failed: what cannot be read is put here as its error, and the others are read: a group is left out, a topic's
            partitions have no ``seconds``. ``None`` raises it.

    Raises:
        BrokerUnavailable: no answer within 15 s.
        UsageError: there is no such group; NotPermitted, UnknownTopic: see ``failed``.
    """
    read = _groups(log, groups, patterns, failed)
    topics = log.topics()
    wanted = {tp for group in read for tp in group.committed if tp.partition < topics.get(tp.topic, 0)}
    starts, ends = log.starts(wanted), log.ends(wanted)
    refused: dict[TP, UsageError] = {}
    first = _first_unread(log, [_unread(group, starts, ends) for group in read], refused)
    tell(refused, failed)
    now = (clock or SystemClock()).time()
    return [_group_lag(group, starts, ends, first, refused, now) for group in read]


def _unread(group: _Group, starts: Mapping[TP, int], ends: Mapping[TP, int]) -> dict[TP, Span]:
    """What the group has still to read."""
    spans = {tp: (max(offset, starts[tp]), ends[tp]) for tp, offset in group.committed.items() if tp in ends}
    return {tp: span for tp, span in spans.items() if span[0] < span[1]}


def _first_unread(
    log: Log, unread: Iterable[Mapping[TP, Span]], refused: dict[TP, UsageError]
) -> dict[tuple[TP, int], Message]:
    """The first record from each of these offsets on. Groups that stand at the same offset share a fetch."""
    wanted: dict[TP, dict[int, Span]] = {}
    for spans in unread:
        for tp, span in spans.items():
            wanted.setdefault(tp, {})[span[0]] = span
    found: dict[tuple[TP, int], Message] = {}
    while wanted:  # one offset of each partition at a time: a consumer can stand at one only
        share = {tp: spans.pop(next(iter(spans))) for tp, spans in wanted.items()}
        found |= {(tp, share[tp][0]): message for tp, message in log.first(share, refused=refused).items()}
        wanted = {tp: spans for tp, spans in wanted.items() if spans and tp not in refused}
    return found


def _group_lag(
    group: _Group,
    starts: Mapping[TP, int],
    ends: Mapping[TP, int],
    first: Mapping[tuple[TP, int], Message],
    refused: Collection[TP],
    now: float,
) -> GroupLag:
    partitions = []
    for tp in sorted(tp for tp in group.committed if tp in ends):
        committed, start, end = group.committed[tp], starts[tp], ends[tp]
        kind = _kind(tp.topic, group.name)
        message = first.get((tp, max(committed, start)))
        behind = max(0, end - max(committed, start))
        unreadable = message is None and behind > 0 and tp in refused
        partitions.append(
            PartitionLag(
                topic=tp.topic,
                partition=tp.partition,
                kind=kind,
                committed=committed,
                start=start,
                end=end,
                records=0 if message is None and not unreadable else behind,
                seconds=None if unreadable else _seconds(message, kind, now),
                expired=max(0, start - committed),
                owned=tp in group.owned,
            )
        )
    return GroupLag(group.name, group.state, group.members, tuple(partitions))


def _kind(topic: str, group: str) -> Kind:
    _, mark, tier = topic.rpartition(f".{group}.retry.")
    if not mark:
        return "backlog"
    return "parked" if tier == "parked" else "retry"


def _seconds(message: Message | None, kind: Kind, now: float) -> float:
    return 0.0 if message is None else max(0.0, now - _since(message, kind))


def _since(message: Message, kind: Kind) -> float:
    """When the record was written; in a tier, when it is due."""
    due = header(message.headers(), wire.HW_DUE_AT) if kind == "retry" else None
    try:
        return message.timestamp()[1] / 1000 if due is None else float(due)
    except ValueError:
        return message.timestamp()[1] / 1000


def _groups(
    log: Log, names: Collection[str] | None, patterns: Collection[str], failed: list[HeadwaterError] | None
) -> list[_Group]:
    listed = answer_of(log.admin.list_consumer_groups(), "listing groups", _ANSWER)
    if listed.errors:  # a broker that has just started knows its groups a moment later: a part is not all of them
        raise translate(kafka_error(listed.errors[0]), "listing groups")
    known = {group.group_id for group in listed.valid}
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the brokers know {', '.join(sorted(known)) or 'none'}"
            raise UsageError(f"there is no consumer group {name}; {hint}")
    fitting = {name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)}
    wanted = sorted(fitting if names is None else names)
    if not wanted:
        return []
    offsets = [(name, log.admin.group_offsets(name)) for name in wanted]  # all asked before the first answer is awaited
    described = log.admin.groups(wanted)
    groups = []
    for name, answer in offsets:
        try:
            committed = answer_of(answer, f"offsets of {name}", _ANSWER)
            groups.append(_group(name, committed, answer_of(described[name], name, _ANSWER)))
        except HeadwaterError as exc:
            if failed is None:
                raise
            failed.append(exc)
    return groups


def _group(name: str, offsets: Any, described: Any) -> _Group:
    return _Group(
        name=name,
        state=described.state.name.lower(),
        members=len(described.members),
        owned=frozenset(_assigned(described.members)),
        committed={TP(p.topic, p.partition): p.offset for p in offsets.topic_partitions if p.offset >= 0},
    )


def _assigned(members: Iterable[Any]) -> Iterable[TP]:
    for member in members:
        if member.assignment is not None:
            yield from (TP(position.topic, position.partition) for position in member.assignment.topic_partitions)
