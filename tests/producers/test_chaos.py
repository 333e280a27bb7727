"""The judge of the chaos run sees what is wrong, and a short run finds nothing wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest

from headwater_producers import EventProducer
from producers.broker import Broker
from producers.chaos import EventId, Fault, Verdict, judge, plan, run
from producers.postgres import binaries


def test_the_judge_counts_what_is_lost_twice_and_out_of_order(
    bootstrap: str, topic: str, producer: EventProducer
) -> None:
    log: list[tuple[bytes, EventId]] = [
        (b"a", (1, 1)),
        (b"a", (1, 3)),
        (b"a", (1, 2)),  # overtaken
        (b"a", (1, 3)),  # twice
        (b"b", (1, 9)),
        (b"b", (2, 1)),  # a later run: in order
        (b"b", (1, 10)),  # overtaken by the next run
    ]
    for key, (number, event) in log:
        producer.emit_raw(topic, b"", key, [("ce_id", f"{number}-{event}")])
    producer.flush(20)

    promised = dict.fromkeys([event for _, event in log], "acked") | {(2, 2): "spooled"}
    assert judge(bootstrap, topic, promised) == Verdict(accepted=7, spooled=1, lost=1, order_violations=2, duplicates=1)


@pytest.mark.parametrize("seed", range(50))
def test_every_seed_has_every_fault(seed: int) -> None:
    faults = plan(random.Random(seed), 25.0)
    assert {fault for _, fault, _ in faults} == set(get_args(Fault))
    assert [moment for moment, _, _ in faults] == sorted(moment for moment, _, _ in faults)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_nothing_promised_is_lost_or_out_of_order(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    verdict = run(seed, 10.0, broker, tmp_path)
    assert (verdict.lost, verdict.order_violations) == (0, 0), verdict
    assert verdict.accepted - verdict.committed > 1000
    assert verdict.committed > 100
    assert min(verdict.emitter_kills, verdict.writer_kills, verdict.relay_kills, verdict.postgres_kills) > 0
