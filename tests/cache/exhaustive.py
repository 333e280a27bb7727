"""Every interleaving of a few writers, readers, a consumer and accidents: a small model checker.

The actors are the steps of the core themselves. Redis is the model of the scripts (``model.Model``), which the
differential test keeps equal to the real ones. A step is known by what it was answered so far, so a state is: those
answers, what Redis holds, what the table holds. Each state is visited once; from each, everything that can happen next
is tried. What random schedules find with luck this finds for certain, in its small world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cache.model import Model
from cache.parts import fields_of, fixed_space
from cache.table import VALUES, Table
from headwater_cache.entry import unpack
from headwater_cache.errors import NotVisibleYet, SourceBusy
from headwater_cache.loads import SourceReads
from headwater_cache.scripts import ACQUIRE, APPLY, PASS, RELEASE
from headwater_cache.settings import CachePolicy
from headwater_cache.steps import Ask, Call, Command, Request, Step
from headwater_cache.versions import version
from headwater_cache.writes import SourceCommit, Writes
from headwater_schemas.clock import ManualClock

__all__ = ["Broken", "Explorer", "World"]

KEY = "k"
POLICY = CachePolicy(jitter=0, early=0, wait=0, passers=0)
_FENCE_MS = str(POLICY.milliseconds("fence_ttl"))


class Broken(AssertionError):
    """An invariant does not hold; the message names it and how it came to that."""


class Ended(NamedTuple):
    """A step has returned; or it raised, and ``value`` is the error."""

    value: object


class World(NamedTuple):
    """A state.

    Args:
        answers: what each actor was answered so far; ``None`` = it has ended, or was killed.
        row: what the table holds: value and version.
        events: value and version of each change, in commit order.
        consumed: how many of them were applied.
        accidents: those that are still to come.
    """

    answers: tuple[tuple[Any, ...] | None, ...]
    entry: bytes | None
    lease: bytes | None
    row: tuple[int, int] | None
    events: tuple[tuple[int | None, int], ...]
    consumed: int = 0
    accidents: tuple[str, ...] = ()


@dataclass
class Explorer:
    """Visits every state that ``actors`` and ``accidents`` can reach.

    Args:
        actors: such as ``("put 1", "delete", "read", "read")``.
        accidents: each happens once at most, anywhere: ``evict``, ``expire`` (a lease), ``replay`` (the first event
            once more), ``kill`` (any actor).
        row: value and version that the table has at first.
        cached: whether the cache has it too.
        model: the scripts; a broken one shows that the invariants bite.
    """

    actors: tuple[str, ...]
    accidents: tuple[str, ...] = ("evict", "expire", "kill")
    row: tuple[int, int] | None = None
    cached: bool = False
    model: Callable[[], Model] = Model
    states: int = 0
    ends: int = 0
    _known: dict[tuple[int, tuple[Any, ...]], Request | Ended] = field(default_factory=dict)
    _tokens: Iterator[str] = field(default_factory=lambda: iter(()))

    def token(self, nbytes: int | None = None) -> str:
        """Stands in for ``secrets.token_hex``: an actor that is played again must use the same."""
        return next(self._tokens)

    def run(self) -> None:
        """Visit everything.

        Raises:
            Broken: an invariant does not hold somewhere.
        """
        self._space = fixed_space("x", "cache", POLICY, ManualClock())
        self._name = self._space.key(KEY)
        entry = self._space.entry("V", version(self.row[1]), VALUES.encode(self.row[0])[1])[0] if self.row else None
        start = World(
            tuple(() for _ in self.actors), entry if self.cached else None, None, self.row, (), 0, self.accidents
        )
        todo: list[tuple[World, tuple[str, ...]]] = [(start, ("",))]
        seen = {start}
        while todo:
            world, path = todo.pop()
            self.states += 1
            ended = True
            for what, following in self._following(world):
                ended = False
                if following not in seen:
                    seen.add(following)
                    todo.append((following, (*path, what)))
                    self._check_change(world, following, (*path, what))
            if ended:
                self.ends += 1
                self._check_end(world, path)

    # What can happen

    def _following(self, world: World) -> Iterator[tuple[str, World]]:
        for at, answers in enumerate(world.answers):
            if answers is None:
                continue
            request = self._request(at, answers)
            assert not isinstance(request, Ended)
            yield f"{self.actors[at]}[{at}]: {_shown(request)}", self._answered(world, at, request)
            if "kill" in world.accidents:
                rest = _without(world.accidents, "kill")
                killed = (*world.answers[:at], None, *world.answers[at + 1 :])
                yield f"kill {self.actors[at]}[{at}]", world._replace(answers=killed, accidents=rest)
        if world.consumed < len(world.events):
            event = world.events[world.consumed]
            yield f"event {event[1]}", self._event(world, *event)._replace(consumed=world.consumed + 1)
        if "replay" in world.accidents and world.consumed:
            rest = _without(world.accidents, "replay")
            yield "replay", self._event(world, *world.events[0])._replace(accidents=rest)
        if "evict" in world.accidents and world.entry is not None:
            yield "evict", world._replace(entry=None, accidents=_without(world.accidents, "evict"))
        if "expire" in world.accidents and world.lease is not None:
            yield "lease expires", world._replace(lease=None, accidents=_without(world.accidents, "expire"))

    def _request(self, at: int, answers: tuple[Any, ...]) -> Request | Ended:
        """What an actor asks next; found out by playing it from its beginning, once."""
        known = self._known.get((at, answers))
        if known is None:
            known = self._known[at, answers] = self._played(at, answers)
        return known

    def _played(self, at: int, answers: tuple[Any, ...]) -> Request | Ended:
        self._tokens = iter([f"token-{at}-{number}" for number in range(20)])
        step = self._step(self.actors[at])
        try:
            request = next(step)
            for answer in answers:
                request = step.send(answer)
        except StopIteration as stop:
            return Ended(stop.value)
        except (NotVisibleYet, SourceBusy) as exc:
            return Ended(exc)
        return request

    def _step(self, actor: str) -> Step[Any]:
        space, table = fixed_space("x", "cache", POLICY, ManualClock()), Table()
        verb, _, value = actor.partition(" ")
        if verb == "read":
            return SourceReads(space, VALUES, table.load).read(KEY, None, None)
        writes = Writes(space, VALUES, SourceCommit(space, table))
        return writes.put(KEY, int(value)) if verb == "put" else writes.delete(KEY)

    def _answered(self, world: World, at: int, request: Request) -> World:
        if isinstance(request, Call):
            answer, world = self._called(world, request)
        else:
            assert isinstance(request, Ask), request
            answer, world = self._asked(world, request.command)
        grown: tuple[Any, ...] | None = (*(world.answers[at] or ()), answer)
        following = self._request(at, grown or ())
        if isinstance(following, Ended):
            self._check_result(self.actors[at], following.value, world)
            grown = None
        return world._replace(answers=(*world.answers[:at], grown, *world.answers[at + 1 :]))

    def _called(self, world: World, request: Call) -> tuple[Any, World]:
        table = Table()
        table.rows = {KEY: world.row} if world.row is not None else {}
        table.sequence = max([self.row[1] if self.row else 0, *(number for _, number in world.events)])
        answer = getattr(table, request.function.__name__)(*request.args)
        if not table.events:
            return answer, world
        row = table.rows.get(KEY)
        return answer, world._replace(row=row, events=(*world.events, (row[0] if row else None, table.sequence)))

    def _asked(self, world: World, command: Command) -> tuple[Any, World]:
        if command[0] == "GET":
            return world.entry, world
        if command[0] == "HGET":  # the clock of the tags: none was invalidated
            return None, world
        if command[1] == PASS.sha:  # nobody may pass a lease that is held: it gets ``SourceBusy``
            return 0, world
        model = self._model(world)
        _, sha, _, name, *args = command
        if sha == ACQUIRE.sha:
            holder, _, domain, seen = (_bytes(arg) for arg in args)
            answer: Any = tuple(model.acquire(str(name), holder, domain, seen))
        elif sha == RELEASE.sha:
            answer = model.release(str(name), _bytes(args[0]))
        else:
            assert sha == APPLY.sha, command
            who, may_create, fence_ms = args[:3]
            entry, token, life = fields_of(args)
            letter = model.apply(str(who), may_create == "1", str(fence_ms), str(name), entry, token, life.decode())
            answer = letter.encode()
        return answer, self._after(world, model)

    def _event(self, world: World, value: int | None, number: int) -> World:
        model = self._model(world)
        payload = b"" if value is None else VALUES.encode(value)[1]
        entry, life = self._space.entry("T" if value is None else "V", version(number), payload)
        model.apply("E", False, _FENCE_MS, self._name, entry, b"", life)
        return self._after(world, model)

    def _model(self, world: World) -> Model:
        model = self.model()
        model.entries = {self._name: world.entry} if world.entry is not None else {}
        model.lives = dict.fromkeys(model.entries, _FENCE_MS)
        model.leases = {self._name: world.lease} if world.lease is not None else {}
        return model

    def _after(self, world: World, model: Model) -> World:
        return world._replace(entry=model.entries.get(self._name), lease=model.leases.get(self._name))

    # Invariants

    def _check_change(self, before: World, after: World, path: tuple[str, ...]) -> None:
        if before.entry == after.entry or after.entry is None:
            return
        old, new = (unpack(data) if data else None for data in (before.entry, after.entry))
        assert new is not None
        if old is not None and old.state in "VT" and new.version < old.version:
            raise Broken(f"I1: went back from {old} to {new}{_story(path)}")
        if new.state == "V" and (old is None or old.state in "FN") and before.lease is None:
            raise Broken(f"I3: became a value without a lease{_story(path)}")
        if after.lease is not None:
            raise Broken(f"rule 2: changed, and a lease is still there{_story(path)}")

    def _check_end(self, world: World, path: tuple[str, ...]) -> None:
        """Everything has ended and every event was applied: absent, fenced, negative of a missing row, or the truth."""
        entry = unpack(world.entry) if world.entry is not None else None
        if entry is not None and entry.state != "F":
            served = (VALUES.decode(0, entry.payload), int(entry.version)) if entry.state == "V" else None
            if served != world.row:
                raise Broken(f"I2: {world.row} is the truth, {entry} in the cache{_story(path)}")

    def _check_result(self, actor: str, result: object, world: World) -> None:
        """A read gives something that was true at some time: a committed value, or nothing where there was none."""
        if actor != "read" or isinstance(result, Exception):
            return
        history = [self.row[0] if self.row else None, *(value for value, _ in world.events)]
        if getattr(result, "value", None) not in history:
            raise Broken(f"I8: a read gave {result}, the truth was {history}")


def _bytes(value: str | bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _without(accidents: tuple[str, ...], one: str) -> tuple[str, ...]:
    at = accidents.index(one)
    return accidents[:at] + accidents[at + 1 :]


def _shown(request: Request) -> str:
    if isinstance(request, Call):
        return request.function.__name__
    assert isinstance(request, Ask)
    shas = {ACQUIRE.sha: "lease", RELEASE.sha: "release", APPLY.sha: "apply"}
    return shas.get(str(request.command[1]), str(request.command[0]))


def _story(path: tuple[str, ...]) -> str:
    return "\n  " + "\n  ".join(path[1:])
