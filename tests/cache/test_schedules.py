"""Random schedules end well, and a broken script is caught by them."""

from __future__ import annotations

import random

import pytest

from cache.resp import RespPort
from cache.schedules import play
from headwater_cache.scripts import APPLY

SCHEDULES = 2000


@pytest.mark.parametrize("fifth", range(5))
def test_no_schedule_leaves_a_key_wrong(port: RespPort, fifth: int) -> None:
    """Interleavings with accidents, other ones at each run; `make chaos-cache` plays as many as you like."""
    base = random.SystemRandom().randrange(10**9)
    print(f"seeds {base} to {base + SCHEDULES - 1}")
    report = play(port, range(base, base + SCHEDULES))

    assert report.seeds == []
    assert report.schedules == SCHEDULES
    assert min(report.outcomes[what] for what in ("E f", "L c", "L l", "W f", "killed", "rewound")) > 0


MUTANTS = {
    "a newer apply leaves the lease": ("  redis.call('DEL', key .. ':l') -- rule 2", "  -- rule 2"),
    "anybody makes values": ("local may_serve = live or may_create -- rule 1", "local may_serve = true"),
    "older overwrites newer": ("if version < old_version then -- rule 3", "if false then"),
    "not found passes every fence": ("if old_state == 'F' and left > 0", "if false"),
    "a lost lease loads": ("if who == 'L' and not live then return 'l' end", ""),
    "events do not fence what is negative": (
        "return fence(key, entry) -- rule 4",
        "if old_state == 'N' then return 'e' end return fence(key, entry) --",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_schedules_catch_a_broken_script(port: RespPort, mutant: str) -> None:
    """Each rule is needed: without it some schedule breaks an invariant."""
    whole, broken = MUTANTS[mutant]
    assert whole in APPLY.source
    sha = port.ask(("SCRIPT", "LOAD", APPLY.source.replace(whole, broken))).decode()

    assert any(play(port, range(at, at + 128), apply_sha=sha).stuck for at in range(0, 2048, 128))
