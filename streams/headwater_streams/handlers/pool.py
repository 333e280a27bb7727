"""The pool: every handler's runners of one worker, and what a rebalance and a commit mean to them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

from faust.types import TP

from headwater_streams.handlers.agent import BatchChannel
from headwater_streams.handlers.ahead import Ahead, TooFarAhead, decode, decode_owners, encode
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences, ReadFences
from headwater_streams.handlers.message import Message
from headwater_streams.handlers.owners import Owners, succeeded
from headwater_streams.handlers.together import Together
from headwater_streams.metrics import HandlerMetrics, WorkerMetrics
from headwater_streams.transport.errors import GroupClosed
from headwater_streams.transport.waiting import until_available

__all__ = ["HandlerPool", "HandlerRunner", "Membership"]

logger = logging.getLogger(__name__)


class HandlerRunner(Protocol):
    """What the pool needs of a runner, whether it takes records one by one or in batches."""

    family: Family
    topics: tuple[str, ...]
    """Those of the family that it reads."""
    metrics: HandlerMetrics

    @property
    def busy(self) -> bool: ...

    @property
    def in_doubt(self) -> bool: ...

    def ring(self) -> None: ...

    def start(self) -> None: ...

    async def close(self) -> None: ...

    def activate(self, partition: int, fences: Fences) -> None: ...

    async def drain(self, partitions: Collection[TP], limit: float) -> None: ...

    def forget(self, partitions: Collection[TP]) -> None: ...

    def feed(self, tp: TP, messages: list[Message]) -> None: ...

    async def room(self) -> None: ...

    def reset(self, tp: TP, offset: int) -> None: ...

    def committable(self, partitions: Collection[TP] | None = None) -> dict[TP, int]: ...

    def ahead(self, bases: Mapping[TP, int]) -> dict[TP, Ahead]: ...

    def read(self) -> Mapping[TP, int]: ...


class Answers(Protocol):
    """What the pool asks the brokers."""

    async def watermarks(self, partitions: Collection[TP]) -> dict[TP, tuple[int, int]]: ...

    async def committed_told(self, partitions: Collection[TP]) -> tuple[dict[TP, int | None], dict[TP, str]]: ...


class Membership(Protocol):
    """What the pool needs of the group."""

    @property
    def ask(self) -> Answers: ...

    def pause(self, partitions: Iterable[TP]) -> None: ...

    def resume(self, partitions: Iterable[TP]) -> None: ...

    def commit_soon(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> bool: ...

    async def commit_told(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None: ...


class HandlerPool:
    """Routes batches to runners and answers rebalances. Belongs to the event loop's thread.

    Args:
        runners: each with the agent's channel by which batches reach it; ``None`` feeds it directly.
        fences: reads what waits on Kafka of one partition.
        hold: seconds for which a batch may wait for its handler before the handler's partitions are paused, so that
            others go on. Short waits are cheaper than a pause, which drops what was fetched ahead.
        exact: tell with every commit what is settled beyond its offset (see ``ahead``), not only of retry topics.
        on_gone: called when main partitions of handled topics are no longer ours, after what ran of them has finished.
    """

    def __init__(
        self,
        group: Membership,
        runners: Sequence[tuple[HandlerRunner, BatchChannel | None]],
        metrics: WorkerMetrics,
        on_crash: Callable[[BaseException], None],
        fences: ReadFences,
        *,
        hold: float = 0.25,
        exact: bool = False,
        on_gone: Callable[[frozenset[TP]], None] = lambda _: None,
    ) -> None:
        self._group = group
        self._on_gone = on_gone
        self._metrics = metrics
        self._on_crash = on_crash
        self._fences = fences
        self._hold = hold
        self._exact = exact
        self._channels = {id(runner): channel for runner, channel in runners}
        self.runners = [runner for runner, _ in runners]
        self._by_topic: dict[str, list[HandlerRunner]] = {}
        self._family_of: dict[str, Family] = {}
        for runner in self.runners:
            for topic in runner.topics:
                self._by_topic.setdefault(topic, []).append(runner)
                self._family_of[topic] = runner.family
        self._assigned: set[TP] = set()
        self._activations: dict[TP, asyncio.Task[None]] = {}
        self._ask_committed = Together(group.ask.committed_told)
        self._ask_watermarks = Together(group.ask.watermarks)
        self._commit_begun = Together(self._commit_first)
        self._first: dict[TP, tuple[int, str]] = {}
        self._active: set[TP] = set()  # topic partitions whose family runs
        self._blocked: dict[int, asyncio.Task[None]] = {}
        self._committed: dict[TP, int] = {}
        self._told: dict[TP, str] = {}
        self._owners: dict[TP, Owners] = {}
        metrics.assigned = lambda: len(self._assigned)
        metrics.gaps = self._gaps

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that the handlers read, tiers and parking logs included."""
        return frozenset(self._by_topic)

    @property
    def ready(self) -> bool:
        """Whether every partition that is ours runs."""
        return all(TP(self._family_of[tp.topic].topic, tp.partition) in self._active for tp in self._assigned)

    def start(self) -> None:
        """Let the runners run."""
        for runner in self.runners:
            runner.start()

    async def close(self) -> None:
        """Stop at once; revoke first for a graceful end."""
        tasks = [*self._activations.values(), *self._blocked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in self.runners:
            await runner.close()

    # -- records --------------------------------------------------------------------------------------------------

    async def take(self, batches: Iterable[tuple[TP, list[Message]]]) -> None:
        """Hand fetched records to their handlers. Waits a moment for a busy handler, then pauses its partitions."""
        fed: dict[int, tuple[HandlerRunner, list[tuple[TP, list[Message]]]]] = {}
        for batch in batches:
            if not self.runs(batch[0]):
                continue  # its state was dropped on the way here; it is read again
            for runner in self._by_topic[batch[0].topic]:
                fed.setdefault(id(runner), (runner, []))[1].append(batch)
        for runner, share in fed.values():
            channel = self._channels[id(runner)]
            if channel is not None:
                await channel.hand_over(share)
                continue
            for tp, messages in share:
                runner.feed(tp, messages)
        for runner, _ in fed.values():
            if id(runner) in self._blocked:
                continue
            try:
                await asyncio.wait_for(runner.room(), self._hold)
            except TimeoutError:
                self._blocked[id(runner)] = asyncio.ensure_future(self._unblock(runner))

    async def _unblock(self, runner: HandlerRunner) -> None:
        topic = runner.family.topic
        self._group.pause(tp for tp in self._assigned if tp.topic == topic)
        await runner.room()
        del self._blocked[id(runner)]
        others = [other for other in self._by_topic[topic] if id(other) in self._blocked]
        if not others:
            self._group.resume(tp for tp in self._active if tp.topic == topic)

    # -- rebalances -----------------------------------------------------------------------------------------------

    def assigned(self, partitions: Collection[TP]) -> None:
        """Partitions are ours, paused: read what waits of them on Kafka, then let them run."""
        self._assigned.update(partitions)
        self._metrics.rebalances += 1
        for tp in partitions:
            main = TP(self._family_of[tp.topic].topic, tp.partition)
            if main not in self._active and main not in self._activations and self._siblings(main) <= self._assigned:
                task = asyncio.ensure_future(self._activate(main))
                self._activations[main] = task
                task.add_done_callback(lambda done, main=main: self._activated(done, main))  # type: ignore[misc]

    def _siblings(self, main: TP) -> set[TP]:
        return {TP(topic, main.partition) for topic in self._family_of[main.topic].consumed}

    async def _activate(self, main: TP) -> None:
        started = perf_counter()
        family = self._family_of[main.topic]
        siblings = self._siblings(main)
        returning = siblings - {main}
        answer, told = await until_available(lambda: self._ask_committed(siblings))
        marks = await until_available(lambda: self._ask_watermarks(returning))
        ranges = {tp: (max(answer[tp] or 0, marks[tp][0]), marks[tp][1]) for tp in returning}
        done = {tp: decode(answer[tp] or 0, told[tp]) for tp in siblings}
        before = {tp: decode_owners(told[tp]) for tp in ranges}
        epoch = secrets.token_hex(4).encode()
        for tp, (start, end) in ranges.items():
            self._owners[tp] = succeeded(before[tp], end, epoch)
            self._first[tp] = start, self._tell(tp, start, done[tp])
        await until_available(lambda: self._commit_begun(ranges.keys()))
        ends = {tp: end for tp, (_, end) in ranges.items()}
        fences = await until_available(lambda: self._fences(family, Fences(epoch, done, before, ends), ranges))
        for runner in self._concerned(siblings):
            runner.activate(main.partition, fences)
        if (at := answer[main]) is not None:
            self._committed[main] = at
        for tp in ranges:
            self._committed[tp], self._told[tp] = self._first.pop(tp)
        self._active.add(main)
        self._group.resume(siblings)
        self._metrics.rebalance_seconds.observe(perf_counter() - started)

    async def _commit_first(self, partitions: Collection[TP]) -> None:
        """Say to the group that from here on what we write to these retry topics counts, and nobody else's; see
        ``owners``."""
        first = {tp: self._first[tp] for tp in partitions if tp in self._first}  # others left meanwhile
        if first:
            await self._group.commit_told(
                {tp: offset for tp, (offset, _) in first.items()}, {tp: text for tp, (_, text) in first.items()}
            )

    def _activated(self, task: asyncio.Task[None], main: TP) -> None:
        if self._activations.get(main) is task:
            del self._activations[main]
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, GroupClosed):
            return  # gone, done, or this worker is leaving
        self._on_crash(error)

    async def revoked(self, partitions: Collection[TP], limit: float) -> tuple[dict[TP, int], dict[TP, str]]:
        """Finish what runs of these partitions within ``limit`` seconds; gives their ``marks`` to commit."""
        await self.drain(partitions, limit)
        families = self._whole(partitions)
        # All of it, once more: a commit may be under way that finds the partitions gone.
        offsets, told = self.marks(again=True)
        self.lost(partitions)
        return {tp: offset for tp, offset in offsets.items() if tp in families}, told

    async def drain(self, partitions: Collection[TP], limit: float) -> None:
        """Take nothing new of these partitions and finish what runs, for at most ``limit`` seconds."""
        families = self._whole(partitions)
        await asyncio.gather(*(runner.drain(families, limit) for runner in self._concerned(families)))

    async def quiet(self) -> None:
        """Let every record be settled whose copies are acknowledged. Ends soon if nothing is sent meanwhile."""
        await asyncio.sleep(0)
        while any(runner.in_doubt for runner in self.runners):  # noqa: ASYNC110 - a few steps of the loop
            await asyncio.sleep(0)

    def drop(self) -> None:
        """Forget every partition: what was done since the last commit is given up."""
        self.lost(set(self._assigned))

    def lost(self, partitions: Collection[TP]) -> None:
        """Forget these partitions, and their siblings' records with them: a family runs whole or not at all."""
        families = self._whole(partitions)
        for tp in families:
            activation = self._activations.pop(tp, None)
            if activation is not None:
                activation.cancel()
        for runner in self._concerned(families):
            runner.forget(families)
        self._active -= families
        self._assigned -= set(partitions)
        self.uncommitted(families)
        for tp in families:
            self._owners.pop(tp, None)
            self._first.pop(tp, None)
        self._on_gone(frozenset(tp for tp in families if self._family_of[tp.topic].topic == tp.topic))

    def _whole(self, partitions: Collection[TP]) -> set[TP]:
        """The partitions with all their siblings."""
        mains = {TP(self._family_of[tp.topic].topic, tp.partition) for tp in partitions}
        return {sibling for main in mains for sibling in self._siblings(main)}

    def _concerned(self, partitions: Iterable[TP]) -> list[HandlerRunner]:
        return list({id(r): r for tp in partitions for r in self._by_topic[tp.topic]}.values())

    def rewind(self, positions: Mapping[TP, int]) -> dict[TP, int]:
        """Be ready to read these partitions again from further back; gives those that are ours, for the seek."""
        ours = {tp: offset for tp, offset in positions.items() if tp in self._assigned}
        for tp, offset in ours.items():
            for runner in self._by_topic[tp.topic]:
                runner.reset(tp, offset)
        self.uncommitted(ours)
        return ours

    def runs(self, tp: TP) -> bool:
        """Whether records of ``tp`` may be fed."""
        return TP(self._family_of[tp.topic].topic, tp.partition) in self._active

    def committable(self) -> dict[TP, int]:
        """Of every partition that is ours: the offset up to which all is settled."""
        return self._lowest(self._assigned)

    def settled(self, topic: str) -> dict[TP, int]:
        """Where each of our partitions of ``topic`` stands: every record before is settled."""
        ours = {tp for tp in self._active if tp.topic == topic}
        known = {tp: self._committed.get(tp, 0) for tp in ours}
        return {**known, **self._lowest(ours)}

    # -- commits --------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Send the offsets that have grown since the last time."""
        offsets, told = self.marks()
        if offsets and self._group.commit_soon(offsets, told):
            self.committed(offsets, told)

    def marks(self, *, again: bool = False) -> tuple[dict[TP, int], dict[TP, str]]:
        """What there is to commit that is not committed yet: offsets, and what to tell of what is settled beyond them.

        Args:
            again: also what was committed before.

        Raises:
            TooFarAhead: of an exact pool, when that cannot be told.
        """
        offsets = {tp: at for tp, at in self._lowest(self._assigned).items() if at >= self._committed.get(tp, 0)}
        returning = [tp for tp in offsets if self._family_of[tp.topic].topic != tp.topic]
        told = self._ahead({tp: offsets[tp] for tp in (offsets if self._exact else returning)})
        changed = {
            tp: at
            for tp, at in offsets.items()
            if again or at > self._committed.get(tp, -1) or told.get(tp, "") != self._told.get(tp, "")
        }
        return changed, {tp: text for tp, text in told.items() if tp in changed}

    def committed(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None:
        """``marks`` are on their way."""
        self._committed.update(offsets)
        self._told.update({tp: told.get(tp, "") for tp in offsets})

    def uncommitted(self, partitions: Iterable[TP]) -> None:
        """What was committed of these counts no more, or never did: it is part of the next ``marks``."""
        for tp in partitions:
            self._committed.pop(tp, None)
            self._told.pop(tp, None)

    def _ahead(self, bases: Mapping[TP, int]) -> dict[TP, str]:
        parts: dict[TP, dict[str, Ahead]] = {}
        for runner in self._concerned(bases):
            for tp, part in runner.ahead(bases).items():
                parts.setdefault(tp, {})[runner.metrics.handler] = part
        return {tp: self._tell(tp, base, parts.get(tp, {})) for tp, base in bases.items()}

    def _tell(self, tp: TP, base: int, parts: Mapping[str, Ahead]) -> str:
        owners = self._owners.get(tp, ())
        try:
            return encode(base, parts, owners)
        except TooFarAhead:
            if self._exact:
                raise
            return encode(base, {}, owners)

    def _lowest(self, partitions: Collection[TP]) -> dict[TP, int]:
        """The lowest unsettled offset of each partition that all its runners have been fed of."""
        lowest: dict[TP, int] = {}
        answers: dict[TP, int] = {}
        for runner in self._concerned(partitions):
            for tp, offset in runner.committable(partitions).items():
                lowest[tp] = min(offset, lowest.get(tp, offset))
                answers[tp] = answers.get(tp, 0) + 1
        return {tp: at for tp, at in lowest.items() if answers[tp] == len(self._by_topic[tp.topic])}

    def _gaps(self) -> list[tuple[TP, int]]:
        read: dict[TP, int] = {}
        for runner in self.runners:
            read.update(runner.read())
        return [(tp, read[tp] - offset) for tp, offset in self._lowest(self._assigned).items() if tp in read]
