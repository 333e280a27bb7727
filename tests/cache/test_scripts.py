"""The Lua scripts against a model in Python, and the properties of the apply, on a real Redis."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.model import Model
from cache.resp import RespPort
from headwater_cache.entry import SEEN_SIZE, State, pack, unpack
from headwater_cache.scripts import ACQUIRE, APPLY, INVALIDATE, RELEASE, apply_args
from headwater_cache.steps import Command
from headwater_cache.versions import Version, log_version

_names = itertools.count()
DOMAINS = ("log", "lsn")
KEYS = ("a", "b")
FIXTURE = [HealthCheck.function_scoped_fixture]  # a connection: every example uses names of its own


def entry(state: State, domain: str, version: Version, stamp: int) -> bytes:
    payload = b"%d" % stamp if state == "V" else b""
    return pack(state, domain, version, payload, written_at=stamp, soft=1, hard=2, schema_id=3)


versions = st.builds(log_version, st.integers(0, 1), st.sampled_from([0, 1, 2, 9, 10, 2**53, 2**53 + 1, 2**64 - 1]))
entries = st.builds(
    entry, st.sampled_from("VTF"), st.sampled_from([*["log"] * 6, "lsn"]), versions, st.integers(1, 2**41)
)
negatives = st.builds(entry, st.just("N"), st.just("log"), st.just(log_version(0, 0)), st.integers(1, 2**41))
tokens = st.sampled_from([b"t1", b"t2"])
lives = st.sampled_from(["0", "50000"])
applies = st.tuples(st.just("apply"), st.sampled_from("EW"), st.booleans(), entries, tokens | st.just(b""), lives)
loads = st.tuples(st.just("apply"), st.just("L"), st.just(False), entries | negatives, tokens, lives)
others = st.tuples(
    st.sampled_from(["acquire", "acquire seen", "release", "invalidate", "invalidate 9", "evict"]), tokens
)
operations = st.lists(st.tuples(st.sampled_from(KEYS), applies | loads | others), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None, suppress_health_check=FIXTURE)
@given(operations=operations)
def test_the_scripts_do_what_the_model_does(port: RespPort, operations: list[tuple[str, tuple[Any, ...]]]) -> None:
    """Same replies, same entries, same lives, same leases, after any sequence of operations."""
    model, space = Model(), f"{{d{next(_names)}:"
    commands: list[Command] = []
    expected: list[Any] = []
    for key, operation in operations:
        command, reply = _both(model, space + key + "}", operation)
        commands.append(command)
        expected.append(reply)
    names = [f"{space}{key}}}" for key in KEYS]
    looks: list[Command] = [look for n in names for look in (("GET", n), ("PTTL", n), ("GET", n + ":l"))]
    replies = port.batch([*commands, *looks, ("DEL", *names, *(name + ":l" for name in names))])

    assert replies[: len(commands)] == expected
    for at, name in enumerate(names):
        found, life, lease = replies[len(commands) + 3 * at : len(commands) + 3 * at + 3]
        assert (found, lease) == (model.entries.get(name), model.leases.get(name))
        assert (life > 0) == (found is not None and model.lives[name] != "0")


def _both(model: Model, key: str, operation: tuple[Any, ...]) -> tuple[Command, Any]:
    """The operation done to the model, and the command that does it to Redis, with the reply it should give."""
    match operation:
        case ("apply", who, may_create, new, token, life):
            reply = model.apply(who, may_create, "70000", key, new, token, life).encode()
            return APPLY.call([key], apply_args(who, may_create, "70000", [new, token, life])), reply
        case ("acquire", token):
            return ACQUIRE.call([key], [token, "60000", "log     ", "?"]), model.acquire(key, token, b"log     ", b"?")
        case ("acquire seen", token):
            seen = model.entries.get(key, b"")[:SEEN_SIZE] if token == b"t1" else b"something else"
            return (
                ACQUIRE.call([key], [token, "60000", "log     ", seen]),
                model.acquire(key, token, b"log     ", seen),
            )
        case ("release", token):
            return RELEASE.call([key], [token]), model.release(key, token)
        case ("invalidate", _):
            return INVALIDATE.call([key], ["70000", ""]), model.invalidate(key, "70000")
        case ("invalidate 9", _):
            only = log_version(0, 9)
            return INVALIDATE.call([key], ["0", only]), model.invalidate(key, "0", only.encode())
    existed = model.entries.pop(key, None)
    return ("DEL", key), int(existed is not None)


Event = tuple[int, Literal["V", "T"]]


@settings(max_examples=100, deadline=None, suppress_health_check=FIXTURE)
@given(data=st.data(), view=st.booleans())
def test_any_order_and_repetition_of_events_gives_the_same_state(
    port: RespPort, data: st.DataObject, view: bool
) -> None:
    """The apply is idempotent and commutes (I5): the newest is served, or in cache mode a fence of its version."""
    states = data.draw(st.lists(st.sampled_from("VT"), min_size=1, max_size=6))
    events: list[Event] = list(enumerate(states, start=1))  # type: ignore[arg-type]  # sampled_from keeps no Literal
    order = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=4))))
    key = f"{{c{next(_names)}}}"
    port.batch([_event(key, event, view) for event in order])
    found = unpack(port.ask(("GET", key)))
    port.ask(("DEL", key))

    newest, state = events[-1]
    assert found.version == log_version(0, newest)
    assert found.state == (state if view else "F")


@settings(max_examples=50, deadline=None, suppress_health_check=FIXTURE)
@given(data=st.data())
def test_r27_events_keep_a_present_entry_at_the_newest_version(port: RespPort, data: st.DataObject) -> None:
    """Present entries are updated in place, not dropped: no herd after a mass update (R27), nothing goes back (I1)."""
    events: list[Event] = [(number, "V") for number in range(2, 8)]
    order = data.draw(st.permutations(events))
    key = f"{{p{next(_names)}}}"
    port.ask(("SET", key, entry("V", "log", log_version(0, 1), 1)))
    seen = []
    for event in order:
        port.ask(_event(key, event, False))
        seen.append(unpack(port.ask(("GET", key))))
    port.ask(("DEL", key))

    assert [each.version for each in seen] == sorted(each.version for each in seen)
    assert (seen[-1].state, seen[-1].version) == ("V", log_version(0, 7))


def _event(key: str, event: Event, view: bool) -> Command:
    number, state = event
    fields: list[str | bytes] = [entry(state, "log", log_version(0, number), number), "", "0"]
    return APPLY.call([key], apply_args("E", view, "70000", fields))


@given(
    first=st.tuples(st.integers(0, 10**10 - 1), st.integers(0, 2**64 - 1)),
    second=st.tuples(st.integers(0, 10**10 - 1), st.integers(0, 2**64 - 1)),
)
def test_r30_versions_compare_as_their_numbers(first: tuple[int, int], second: tuple[int, int]) -> None:
    """Fixed-width text orders 64-bit numbers exactly; Lua's doubles would not above 2^53 (R30)."""
    assert (log_version(*first) < log_version(*second)) == (first < second)
