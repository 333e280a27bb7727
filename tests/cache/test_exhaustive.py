"""Every interleaving in a small world; and that a broken rule does not survive it."""

from __future__ import annotations

import secrets

import pytest

from cache.exhaustive import Broken, Explorer
from cache.model import Model

CASES = {
    "two writers and a reader of a missing row": Explorer(("put 1", "put 2", "read")),
    "two writers and a reader of a cached row": Explorer(("put 1", "put 2", "read"), row=(9, 1), cached=True),
    "a writer and two readers": Explorer(("put 1", "read", "read"), row=(9, 1)),
    "a delete, an insert and a reader": Explorer(("delete", "put 2", "read"), row=(9, 1), cached=True),
    "two evictions": Explorer(("put 1", "read", "read"), ("evict", "evict"), row=(9, 1)),
    "two kills and a replay": Explorer(("delete", "put 2"), ("evict", "replay", "kill", "kill"), row=(9, 1)),
    "a replayed event": Explorer(("delete", "put 2", "read"), ("evict", "expire", "replay"), row=(9, 1), cached=True),
}
"""The large world, two writers, two readers and an eviction, is `make chaos-cache ARGS=--exhaustive`."""


@pytest.mark.parametrize("case", CASES)
def test_every_interleaving_keeps_the_invariants(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1, I2, I3, I4, I8 in each state that can be reached."""
    explorer = CASES[case]
    monkeypatch.setattr(secrets, "token_hex", explorer.token)
    explorer.run()
    print(f"{explorer.states} states, {explorer.ends} ends")

    assert explorer.states > 500
    assert explorer.ends > 3


class KeepsLeases(Model):
    """A newer apply leaves the lease."""

    def _store(self, key: str, entry: bytes, life: str, letter: str) -> str:
        lease = self.leases.get(key)
        super()._store(key, entry, life, letter)
        if lease is not None:
            self.leases[key] = lease
        return letter


class Creates(Model):
    """Anybody makes values."""

    def apply(self, who: str, may_create: bool, fence_ms: str, key: str, entry: bytes, token: bytes, life: str) -> str:
        return super().apply(who, True, fence_ms, key, entry, token, life)


class LoadsWithoutLease(Model):
    """A lost lease loads."""

    def apply(self, who: str, may_create: bool, fence_ms: str, key: str, entry: bytes, token: bytes, life: str) -> str:
        return super().apply("W", who == "L", fence_ms, key, entry, token, life)


class LastWins(Model):
    """What arrives last stays."""

    def apply(self, who: str, may_create: bool, fence_ms: str, key: str, entry: bytes, token: bytes, life: str) -> str:
        live = bool(token) and self.leases.get(key) == token
        if key in self.entries and self.entries[key][:1] in (b"V", b"T") and (who != "L" or live):
            return self._store(key, entry, life, "a")
        return super().apply(who, may_create, fence_ms, key, entry, token, life)


@pytest.mark.parametrize("broken", [KeepsLeases, Creates, LoadsWithoutLease, LastWins])
def test_no_broken_rule_survives(broken: type[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """In some of the small worlds it breaks an invariant, and the story is told."""
    for case in CASES.values():
        explorer = Explorer(case.actors, case.accidents, case.row, case.cached, broken)
        monkeypatch.setattr(secrets, "token_hex", explorer.token)
        try:
            explorer.run()
        except Broken as exc:
            print(exc)
            return
    pytest.fail(f"{broken.__doc__} Nothing noticed.")
