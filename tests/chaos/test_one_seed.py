"""The short form of ``make chaos``: one seed on real processes and the real broker, in every test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import Plan, run_seed
from headwater_ops.stack import Stack
from headwater_ops.testing.servers import Servers


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [11])
def test_killed_and_stopped_workers_lose_nothing_and_keep_the_order(stack: Stack, seed: int, tmp_path: Path) -> None:
    plan = Plan(events=2000, faults=2, only=("worker-sigkill", "worker-sigterm", "rebalance-storm"))

    verdict = run_seed(seed, plan, Servers(stack, stack.up("kafka")), tmp_path)

    print(f"seed {seed}: {verdict.as_dict()}")
    assert verdict.acked >= 2000
    assert verdict.violations == []
    assert verdict.passed
