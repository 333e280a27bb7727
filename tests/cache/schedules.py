"""Randomised schedules: readers, writers, consumers and accidents, interleaved command by command on a real Redis.

Nothing runs in parallel. Each actor is a step of the core (see ``headwater_cache.steps``); the schedule picks one at
random, performs its next request, and so can put any command of one between any two of another. A seed gives the same
schedule again. Accidents: kill -9 between two commands, expired leases, evicted entries, clocks that pass the expiries,
batches that are replayed, zombie consumers, an emptied Redis, a failover to a replica that is behind. Some sources lag,
as a replica does that breaks the contract.

At the end everything is drained and each key must be absent, fenced or equal to the truth (I2, I12). On the way each
change of an entry is checked (I1, I3, I4, I10), and each read with a token (I9).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cache.parts import fields_of, fixed_space
from cache.resp import RespPort
from cache.table import VALUES, Table
from headwater_cache.applier import Applier
from headwater_cache.changes import Change
from headwater_cache.continuity import Continuity, TopicPartition
from headwater_cache.entry import unpack
from headwater_cache.errors import ContinuityLost, NotVisibleYet, SourceBusy, SourceFailed
from headwater_cache.loads import SourceReads
from headwater_cache.reads import ViewReads
from headwater_cache.scripts import APPLY, SCRIPTS
from headwater_cache.settings import CachePolicy
from headwater_cache.space import Mode, Space
from headwater_cache.steps import Ask, Batch, Call, Command, Join, Pause, Request, Spawn, Step
from headwater_cache.testing import MemoryLog
from headwater_cache.versions import ZERO, VersionToken
from headwater_cache.writes import LogCommit, SourceCommit, Writes
from headwater_schemas.clock import ManualClock

KEYS = ("a", "b")
POLICY = CachePolicy(soft_ttl=60, hard_ttl=120, negative_ttl=30, fence_ttl=600, stale_if_error=30, wait="50ms")
_NAMES = 512  # more than are played at once, and few: each has metrics

T = TypeVar("T")
Talk = Generator[Sequence[Command], list[Any], T]
"""What a schedule says to Redis: commands out, replies in. So many schedules can share one round trip."""

Snapshot = dict[bytes, bytes | dict[bytes, bytes]]


class Broken(AssertionError):
    """An invariant does not hold; the message names it."""


@dataclass(slots=True)
class Actor:
    """A step that is under way, and what it wants next."""

    name: str
    step: Step[Any]
    pace: float
    request: Request | None = None


@dataclass
class Schedule:
    """One schedule. ``apply_sha`` lets a deliberately broken script run in place of the real one."""

    seed: int
    mode: Mode
    apply_sha: str = APPLY.sha
    accidents: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = ManualClock()
        self.name = f"s{self.mode}{self.seed % _NAMES}"  # a name for ever would be as many metrics
        self.table = Table()
        self.log = MemoryLog("table.changes")
        self.partition = TopicPartition("table.changes", 0)
        self.actors: list[Actor] = []
        self.consumed = 0
        self.snapshot: Snapshot | None = None
        self.lag = self.random.choice((0, 0, 0, 1, 2)) if self.mode == "cache" else 0
        self.processes = [self._process() for _ in range(2)]
        self.consumer = self._consumer()

    # Parts, as several processes have them

    def _space(self) -> Space:
        return fixed_space(self.name, self.mode, POLICY, self.clock, self.seed)

    def _process(self) -> tuple[ViewReads[int] | SourceReads[int], Writes[int]]:
        space = self._space()
        if self.mode == "view":
            return ViewReads(space, VALUES, "miss"), Writes(space, VALUES, LogCommit[int](space, self.log))
        load = self.table.behind(self.lag)
        return SourceReads(space, VALUES, load), Writes(space, VALUES, SourceCommit(space, self.table))

    def _consumer(self) -> Applier:
        space = self._space()
        return Applier(space, Continuity(space), chunk=self.random.choice((1, 64)))

    @property
    def events(self) -> list[Change]:
        return self.log.changes if self.mode == "view" else self.table.events

    # Running

    def run(self) -> Talk[None]:
        """Play the schedule to its end.

        Raises:
            Broken: an invariant does not hold.
        """
        try:
            actions = self.random.randint(4, 12)
            while actions or self.actors:
                if self.accidents and self.random.random() < 0.1:
                    yield from self._accident()
                if actions and (not self.actors or self.random.random() < 0.5):
                    actions -= 1
                    self._start(self._action())
                if self.actors:
                    yield from self._advance(self._next())
            yield from self._drain()
            yield from self._check_quiescent()
        finally:
            yield from self._forget()

    def _action(self) -> tuple[str, Step[Any]]:
        reads, writes = self.random.choice(self.processes)
        key = self._key()
        match self.random.choice(("read", "read", "read", "put", "put", "delete", "consume", "consume", "zombie")):
            case "read":
                return f"read {key}", self._read(reads, key)
            case "put":
                return f"put {key}", writes.put(key, self.random.randrange(1000))
            case "delete":
                return f"delete {key}", writes.delete(key)
            case "consume" if all(actor.name != "consume" for actor in self.actors):
                return "consume", self._consume(self.consumer)
            case _:
                return "zombie", self._zombie(self._consumer())

    def _read(self, reads: ViewReads[int] | SourceReads[int], key: str) -> Step[None]:
        """Sometimes with the token of an earlier write."""
        written = [change for change in self.events if change.key == key]
        token = (
            VersionToken("log", self.random.choice(written).version) if written and self.random.random() < 0.3 else None
        )
        reading = yield from reads.read(key, token, None)
        if token is not None and reading.value is not None and (reading.version or ZERO) < token.version:
            raise Broken(f"I9: {key} was read as {reading} with {token}")

    def _next(self) -> Actor:
        """Some actors are slow: a race needs one that sleeps while others come and go."""
        (actor,) = self.random.choices(self.actors, [each.pace for each in self.actors])
        return actor

    def _key(self) -> str:
        """Mostly the same one: that is where the races are."""
        return KEYS[self.random.random() < 0.2]

    def _start(self, action: tuple[str, Step[Any]]) -> None:
        actor = Actor(*action, pace=self.random.choice((1.0, 1.0, 0.05)))
        self.actors.append(actor)
        self._resume(actor, lambda: next(actor.step))

    def _advance(self, actor: Actor) -> Talk[None]:
        request = actor.request
        if isinstance(request, Join) and not request.future.done() and self.random.random() < 0.7:
            return  # still waiting; otherwise its deadline passes
        if self.accidents and self.random.random() < 0.01:
            self.outcomes["killed"] += 1
            actor.step.close()
            self.actors.remove(actor)
            if actor.name == "consume":  # another worker takes over, from the committed offset
                self.consumer = self._consumer()
            return
        assert request is not None
        try:
            reply = yield from self._perform(request)
        except Exception as exc:
            error = exc
            self._resume(actor, lambda: actor.step.throw(error))
        else:
            self._resume(actor, lambda: actor.step.send(reply))

    def _resume(self, actor: Actor, resume: Callable[[], Request]) -> None:
        try:
            actor.request = resume()
        except StopIteration:
            self.actors.remove(actor)
        except (NotVisibleYet, SourceBusy, SourceFailed, ContinuityLost) as exc:
            self.outcomes[type(exc).__name__] += 1
            self.actors.remove(actor)

    def _perform(self, request: Request) -> Talk[Any]:
        match request:
            case Ask(command):
                return (yield from self._watched(command))
            case Batch(commands):
                replies = []
                for command in commands:
                    replies.append((yield from self._watched(command)))  # noqa: PERF401  # no yield in comprehensions
                return replies
            case Pause(seconds):
                return self.clock.advance(seconds)
            case Join(future):
                return future.result(0)
            case Call(function, args):
                return function(*args)
            case Spawn(step):
                self._start(("refresh", step))
                return None
        raise AssertionError(request)

    # Invariants, command by command

    def _watched(self, command: Command) -> Talk[Any]:
        if command[:2] != ("EVALSHA", APPLY.sha):
            return (yield from _ask(*command))
        command = ("EVALSHA", self.apply_sha, *command[2:])
        count = int(command[2])
        keys = [str(key) for key in command[3 : 3 + count]]
        args = command[3 + count :]
        who, may_create = args[:2]
        tokens = fields_of(args)[1::3]
        looks: list[Command] = [look for key in keys for look in (("GET", key), ("GET", key + ":l"))]
        replies = yield [*looks, command, *looks]
        before, reply, after = replies[: 2 * count], replies[2 * count], replies[2 * count + 1 :]
        for at, key in enumerate(keys):
            lease = before[2 * at + 1]
            live = lease == tokens[at]
            self.outcomes[f"{who!s} {chr(reply[at])}"] += 1
            self._check_change(key, before[2 * at], after[2 * at], live or may_create == "1", who == "L" and not live)
            if before[2 * at] != after[2 * at] and after[2 * at + 1] is not None:
                raise Broken(f"rule 2: {key} was changed and its lease is still there")
        return reply

    def _check_change(self, key: str, old: bytes | None, new: bytes | None, may_serve: bool, lost: bool) -> None:
        if old == new:
            return
        was, now = (unpack(data) if data else None for data in (old, new))
        if lost:
            raise Broken(f"I4: a load whose lease was lost changed {key}: {was} -> {now}")
        if now is not None and now.state == "V" and (was is None or was.state in "FN") and not may_serve:
            raise Broken(f"I3: {key} became a value without a lease: {was} -> {now}")
        if was is not None and was.payload == b"V" and was.state == "F" and now is not None and now.state == "N":
            raise Broken(f"R13: not found passed the fence of a value: {was} -> {now}")
        if was is not None and was.state in "VT" and (now is None or now.version < was.version):
            raise Broken(f"I1: {key} went back: {was} -> {now}")

    # Consumers

    def _consume(self, applier: Applier) -> Step[None]:
        """Apply the next events; on a lost watermark go back as told. Now and then go back without need."""
        if self.random.random() < 0.3:
            self.consumed = self.random.randint(0, self.consumed)
        start = self.consumed
        batch = self.events[start : start + self.random.randint(1, 5)]
        if not batch:
            return
        yield from self._apply(applier, batch)
        self.consumed = max(self.consumed, start + len(batch))

    def _apply(self, applier: Applier, batch: list[Change]) -> Step[None]:
        try:
            yield from applier.apply(batch, None)
        except ContinuityLost as lost:
            self.outcomes["rewound"] += 1
            self.consumed = min(self.consumed, lost.rewind.positions[self.partition])
            raise

    def _zombie(self, applier: Applier) -> Step[None]:
        """Was assigned the partition once, and applies an old batch late."""
        start = self.random.randint(0, max(0, self.consumed))
        batch = self.events[start : min(self.consumed, start + 3)]
        if batch:
            yield from applier.apply(batch, {})

    # Accidents

    def _accident(self) -> Talk[None]:
        key = f"{{{self.name}:1:{self._key()}}}"
        kind = self.random.choice(("lease", "evict", "evict", "evict", "time", "snapshot", "failover", "emptied"))
        self.outcomes[f"accident {kind}"] += 1
        match kind:
            case "lease":
                yield from _ask("DEL", key + ":l")
            case "evict" if self.mode == "cache":
                yield from _ask("DEL", key)
            case "time":
                self.clock.advance(self.random.choice((5, 70, 140)))
            case "snapshot":
                self.snapshot = yield from self._dump()
            case "failover" if self.snapshot is not None:
                yield from self._restore(self.snapshot)
                self.snapshot = None
            case "emptied" if self.random.random() < 0.3:
                yield from self._forget()
                self.snapshot = None

    def _names(self) -> list[bytes]:
        entries = [f"{{{self.name}:1:{key}}}" for key in KEYS]
        extra = [entry + end for entry in entries for end in (":l", ":x", ":p")]
        return [name.encode() for name in (*entries, *extra)]

    def _dump(self) -> Talk[Snapshot]:
        marks = f"{{{self.name}:1}}:watermark"
        values, mark = yield [("MGET", *self._names()), ("HGETALL", marks)]
        found: Snapshot = {name: value for name, value in zip(self._names(), values, strict=True) if value is not None}
        return {**found, marks.encode(): mark}

    def _restore(self, snapshot: Snapshot) -> Talk[None]:
        yield from self._forget()
        for name, value in snapshot.items():
            if isinstance(value, bytes):
                yield from _ask("SET", name, value, "PX", POLICY.milliseconds("fence_ttl"))
            elif value:
                yield from _ask("HSET", name, *(part for pair in value.items() for part in pair))

    def _forget(self) -> Talk[None]:
        yield from _ask("DEL", *self._names(), f"{{{self.name}:1}}:watermark")

    # The end

    def _drain(self) -> Talk[None]:
        """Leases expire, and a consumer reads to the end, going back as often as it is told to."""
        yield from _ask("DEL", *(name for name in self._names() if name.endswith(b":l")))
        applier = self.consumer
        if self.lag:  # what a lagging source put where everything was evicted, only a replay (or its expiry) repairs
            self.consumed = 0
        for _ in range(4):
            rewind = yield from self._finish(applier._continuity.check({self.partition: self.consumed}))
            if rewind is not None:
                self.consumed = rewind.positions[self.partition]
            while self.consumed < len(self.events):
                batch = self.events[self.consumed : self.consumed + 3]
                yield from self._finish(applier.apply(batch, None))
                self.consumed += len(batch)

    def _finish(self, step: Step[Any]) -> Talk[Any]:
        try:
            request = next(step)
            while True:
                reply = yield from self._perform(request)
                request = step.send(reply)
        except StopIteration as stop:
            return stop.value

    def _check_quiescent(self) -> Talk[None]:
        found = yield [("GET", f"{{{self.name}:1:{key}}}") for key in KEYS]
        for key, data in zip(KEYS, found, strict=True):
            entry = unpack(data) if data is not None else None
            truth = self._truth(key)
            value = VALUES.decode(0, entry.payload) if entry is not None and entry.state == "V" else None
            served = None if entry is None or entry.state != "V" else (value, int(entry.version[10:]))
            fenced = entry is None or entry.state == "F"
            if self.mode == "view" and truth is not None and fenced:
                raise Broken(f"I2: {key} is {truth} in the log and not in the view: {entry}")
            if not fenced and served != truth:
                raise Broken(f"I2: {key} is {truth} in the truth and {entry} in the cache")

    def _truth(self, key: str) -> tuple[int, int] | None:
        if self.mode == "cache":
            return self.table.rows.get(key)
        last = next((change for change in reversed(self.log.changes) if change.key == key), None)
        if last is None or last.value is None:
            return None
        return VALUES.decode(0, last.value), int(last.version[10:])


def _ask(*command: str | bytes | int) -> Talk[Any]:
    (reply,) = yield [command]
    if isinstance(reply, Exception):
        raise reply
    return reply


@dataclass(slots=True)
class Report:
    """What many schedules came to. ``stuck``: schedules that broke an invariant, with their seeds."""

    schedules: int = 0
    stuck: int = 0
    seeds: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


def play(
    port: RespPort,
    seeds: range,
    modes: tuple[Mode, ...] = ("cache", "view"),
    apply_sha: str = APPLY.sha,
    width: int = 256,
) -> Report:
    """Play a schedule per seed, the modes in turn; ``width`` of them at a time share their round trips."""
    for script in SCRIPTS:
        port.ask(("SCRIPT", "LOAD", script.source))
    report = Report()
    for start in range(0, len(seeds), width):
        _play_together(
            port, [Schedule(seed, modes[seed % len(modes)], apply_sha) for seed in seeds[start : start + width]], report
        )
    return report


def _play_together(port: RespPort, schedules: Sequence[Schedule], report: Report) -> None:
    talks: dict[int, Talk[None]] = {at: schedule.run() for at, schedule in enumerate(schedules)}
    wanted: dict[int, Sequence[Command]] = {}
    for at in list(talks):
        _proceed(talks, wanted, at, None, schedules[at], report)
    while talks:
        turn = dict(wanted)
        replies = iter(port.batch([command for commands in turn.values() for command in commands]))
        for at, commands in turn.items():
            _proceed(talks, wanted, at, [next(replies) for _ in commands], schedules[at], report)


def _proceed(
    talks: dict[int, Talk[None]],
    wanted: dict[int, Sequence[Command]],
    at: int,
    replies: list[Any] | None,
    schedule: Schedule,
    report: Report,
) -> None:
    try:
        wanted[at] = next(talks[at]) if replies is None else talks[at].send(replies)
        return
    except StopIteration:
        pass
    except Broken as exc:
        report.stuck += 1
        report.seeds.append(f"seed {schedule.seed} ({schedule.mode}): {exc}")
    report.schedules += 1
    report.outcomes.update(schedule.outcomes)
    del talks[at]
    wanted.pop(at, None)
