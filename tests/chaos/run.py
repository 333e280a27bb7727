"""Run seeds of faults: ``make chaos ARGS="--seeds 5 --start 1 --json"``. Exit code 1 if any is lost or out of order.

One seed: two workers, a producer that keeps sending numbered events of 40 keys, 1 % poison, 5 % failing, 1 % hopeless,
three faults drawn from the seed; with ``--brokers 3`` also changes of a partition's leader. Then everything must
settle; a file of effects and the log are judged. ``--engine faust`` does the same to a plain Faust app.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chaos.events import HEALTHY, codec_for, event_of, is_doomed, value_of
from chaos.letters import read_dead
from headwater_ops.testing.faults import FAULTS
from headwater_ops.testing.run import FaultRun, Load
from headwater_ops.testing.servers import Servers, servers
from headwater_ops.testing.verdict import Event, Verdict
from headwater_ops.testing.world import Launch

__all__ = ["Plan", "main", "run_seed"]

KEYS = [f"k{number}" for number in range(40)]
RATE = 600  # events per second


@dataclass(frozen=True, slots=True)
class Plan:
    """What every seed of a run has in common.

    Args:
        events: at least so many are sent; sending goes on until the faults are over.
        only: names of faults; empty means any.
        healthy: no poison, and no handler fails.
        engine: ``headwater`` or ``faust``, the latter with so many streams of an agent at once.
    """

    events: int = 6000
    faults: int = 3
    only: tuple[str, ...] = ()
    healthy: bool = False
    engine: str = "headwater"
    concurrency: int = 1

    def command(self, group: str, topic: str, failures: int) -> list[str]:
        arguments = [group, topic, str(failures)]
        if self.engine == "faust":
            return [sys.executable, "-m", "chaos.faust_worker", *arguments, str(self.concurrency)]
        return [sys.executable, "-m", "chaos.worker", *arguments]


def run_seed(seed: int, plan: Plan, servers: Servers, folder: Path) -> Verdict:
    """One seed on running servers; with a network its workers reach the brokers through proxies."""
    group = f"chaos-{seed}-{uuid.uuid4().hex[:6]}"
    topic = f"{group}.steps"
    codec = codec_for(topic)
    failures = HEALTHY if plan.healthy else seed
    settings = {"HEADWATER_WORKER_DRAIN": "5s", "HEADWATER_WORKER_COMMIT_INTERVAL": "200ms"}

    def dead() -> list[Event]:
        letters = read_dead(servers.endpoints.bootstrap, f"{topic}.{group}.dlt")
        return [event_of(codec, topic, value) for value in letters]

    run = FaultRun(
        seed,
        Launch(plan.command(group, topic, failures), folder, Path(__file__).parent.parent, settings),
        servers,
        group,
        topic,
        Load(partial(value_of, codec, topic, failures), KEYS, plan.events, RATE),
        plan.faults,
        dead,
        only=plan.only,
    )
    return run(partial(is_doomed, failures) if plan.engine == "headwater" else None)  # Faust has no dead letters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--events", type=int, default=6000, help="at least so many; sent until the faults are over")
    parser.add_argument("--faults", type=int, default=3)
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3])
    parser.add_argument("--only", action="append", default=[], choices=[fault.name for fault in FAULTS])
    parser.add_argument("--healthy", action="store_true", help="no poison, and no handler fails")
    parser.add_argument("--engine", default="headwater", choices=["headwater", "faust"])
    parser.add_argument("--concurrency", type=int, default=1, help="of the agent, with --engine faust")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--keep", type=Path, help="keep effects and logs in this folder")
    options = parser.parse_args()
    plan = Plan(
        options.events, options.faults, tuple(options.only), options.healthy, options.engine, options.concurrency
    )
    verdicts = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with servers(folder / "stack", "kafka", brokers=options.brokers) as running:
            for seed in range(options.start, options.start + options.seeds):
                verdicts.append(run_seed(seed, plan, running, folder))
                _show(verdicts[-1])
    if options.json:
        print(json.dumps(_summary(verdicts)))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _show(verdict: Verdict) -> None:
    word = "ok  " if verdict.passed else "FAIL"
    print(
        f"{word} seed {verdict.seed}: {verdict.acked} acked, {verdict.lost} lost, {verdict.behind} behind, "
        f"{verdict.order_violations} out of order, "
        f"{verdict.duplicates} repeated, {verdict.wrong_deaths} wrong deaths, "
        f"{verdict.takeovers} takeovers, {verdict.leader_changes} leader changes, "
        f"longest pause of a partition {verdict.recovery_seconds:.1f} s "
        f"[{', '.join(verdict.faults)}]",
        file=sys.stderr,
        flush=True,
    )
    for violation in verdict.violations:
        print(f"     {violation}", file=sys.stderr)


def _summary(verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "seeds": len(verdicts),
        "acked": sum(verdict.acked for verdict in verdicts),
        "lost": sum(verdict.lost for verdict in verdicts),
        "behind": sum(verdict.behind for verdict in verdicts),
        "order_violations": sum(verdict.order_violations for verdict in verdicts),
        "duplicates": sum(verdict.duplicates for verdict in verdicts),
        "wrong_deaths": sum(verdict.wrong_deaths for verdict in verdicts),
        "takeovers": sum(verdict.takeovers for verdict in verdicts),
        "leader_changes": sum(verdict.leader_changes for verdict in verdicts),
        "without_effect": sum(verdict.without_effect for verdict in verdicts),
        "unended": sum(verdict.unended for verdict in verdicts),
        "recovery_seconds_max": round(max((verdict.recovery_seconds for verdict in verdicts), default=0.0), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
