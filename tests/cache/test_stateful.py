"""The cache as a state machine: hypothesis looks for a short story that breaks an invariant, on a real Redis."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from cache.driving import Driven
from cache.parts import fixed_space
from cache.resp import RespPort
from cache.table import VALUES, Table
from headwater_cache import CachePolicy, NotVisibleYet, Reading, VersionToken
from headwater_cache.applier import Applier
from headwater_cache.continuity import Continuity
from headwater_cache.entry import Entry, unpack
from headwater_cache.loads import SourceReads
from headwater_cache.writes import SourceCommit, Writes
from headwater_schemas.clock import ManualClock

KEYS = ("a", "b")
LAGS = st.sampled_from([0, 0, 0, 1, 2])
POLICY = CachePolicy(soft_ttl=60, hard_ttl=120, negative_ttl=10, jitter=0, early=0, wait=0, passers=10**6)

_names = itertools.count()


class Story(RuleBasedStateMachine):
    """Writers, readers that sleep anywhere, events in any order and number, evictions, expired leases, time.

    Sources lag, as a replica may that breaks the contract: no read is older than its token, and the events repair all.
    """

    port: RespPort
    readers: Bundle[tuple[str, Driven[Reading[int]]]] = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.clock = ManualClock()
        self.space = fixed_space(f"story{next(_names)}", "cache", POLICY, self.clock)
        self.writes = Writes(self.space, VALUES, SourceCommit(self.space, self.table))
        self.applier = Applier(self.space, Continuity(self.space))
        self.history: dict[str, set[tuple[int, int]]] = {key: set() for key in KEYS}
        self.before: dict[str, Entry | None] = dict.fromkeys(KEYS)

    @rule(key=st.sampled_from(KEYS), value=st.none() | st.integers(0, 9), evicted=st.booleans(), behind=LAGS)
    def write_and_read_back(self, key: str, value: int | None, evicted: bool, behind: int) -> None:
        """A put or a delete, and what its token reads."""
        token = self._run_write(key, value)
        if evicted:
            self.lose(key, "")
        try:
            reading = self._read(key, token, behind).finish()
        except NotVisibleYet:
            assert behind, "I9: the source has it"
            return
        if reading.value is None:
            assert behind or value is None, "I9: a put is not found"
        else:
            assert reading.version is not None
            assert reading.version >= token.version, "I9: older than the token"

    @rule(key=st.sampled_from(KEYS), value=st.none() | st.integers(0, 9))
    def commit_and_die(self, key: str, value: int | None) -> None:
        """Committed, not written through."""
        self._note(key, value, self.table.write(key, value))

    @rule(target=readers, key=st.sampled_from(KEYS), steps=st.integers(0, 3), behind=LAGS)
    def begin_read(self, key: str, steps: int, behind: int) -> tuple[str, Driven[Reading[int]]]:
        reader = self._read(key, None, behind)
        for _ in range(steps):
            if reader.request is not None:
                reader.answer()
        return key, reader

    @rule(reader=consumes(readers))
    def end_read(self, reader: tuple[str, Driven[Reading[int]]]) -> None:
        key, driven = reader
        reading = driven.finish()
        if reading.value is not None:
            assert reading.version is not None
            served = (reading.value, int(reading.version))
            assert served in self.history[key], "I8: served what was never committed"

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Any event, again or late or early."""
        if self.table.events:
            change = data.draw(st.sampled_from(self.table.events))
            Driven(self.port, self.applier.apply([change], {})).finish()

    @rule(key=st.sampled_from(KEYS), end=st.sampled_from(["", ":l"]))
    def lose(self, key: str, end: str) -> None:
        """An eviction, or an expired lease."""
        self.port.ask(("DEL", self.space.key(key) + end))
        if not end:
            self.before[key] = None

    @rule(seconds=st.sampled_from([5, 70, 140]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def versions_never_go_back(self) -> None:
        """I1 and I10, as long as the entry lives."""
        for key in KEYS:
            now = self._entry(key)
            was, self.before[key] = self.before[key], now
            if was is not None:
                assert now is not None
                assert now.version >= was.version, f"I1: {key} went back from {was} to {now}"

    def teardown(self) -> None:
        """I2: when the events are drained, each key is absent, fenced, or the row."""
        for key in KEYS:
            self.port.ask(("DEL", self.space.key(key) + ":l"))
        if self.table.events:
            Driven(self.port, self.applier.apply(self.table.events, {})).finish()
        for key in KEYS:
            entry = self._entry(key)
            row = self.table.rows.get(key)
            if entry is not None and entry.state != "F":
                assert (entry.state == "V") == (row is not None), f"I2: {key} is {row}, cached {entry}"
                assert row is None or int(entry.version) == row[1], f"I2: {key} is {row}, cached {entry}"
            self.port.ask(("DEL", self.space.key(key)))

    def _read(self, key: str, token: VersionToken | None, behind: int) -> Driven[Reading[int]]:
        """Each reader in a process of its own, with a source that lacks the last changes or does not."""
        load = self.table.behind(behind)
        return Driven(self.port, SourceReads(self.space, VALUES, load).read(key, token, None))

    def _run_write(self, key: str, value: int | None) -> VersionToken:
        step = self.writes.delete(key) if value is None else self.writes.put(key, value)
        token = Driven(self.port, step).finish()
        self._note(key, value, int(token.version))
        return token

    def _note(self, key: str, value: int | None, number: int) -> None:
        if value is not None:
            self.history[key].add((value, number))

    def _entry(self, key: str) -> Entry | None:
        data = self.port.ask(("GET", self.space.key(key)))
        return unpack(data) if data is not None else None


def test_no_story_breaks_an_invariant(port: RespPort) -> None:
    """I1, I2, I3, I4, I8, I9, I10 in cache mode."""
    Story.port = port
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
