"""The demo on the real servers: a slice of the year, judged by the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from backends.embedded import embedded
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.poison import POISON_RECORDS
from headwater_ops.demo.runner import Demo
from headwater_ops.demo.stages import Stages
from headwater_schemas.errors import UsageError

pytestmark = pytest.mark.timeout(600)

FLIGHTS = 2_500


def test_a_run_equals_the_oracle_and_a_second_one_on_its_topics_is_refused(tmp_path: Path) -> None:
    """On servers of its own: the demo wants topics that hold nothing."""
    with embedded(tmp_path / "stack") as stack, Stages(quiet=True) as stages:
        settings = stack.up().settings()
        dataset = Dataset.load(limit=FLIGHTS)
        with Demo(settings, tmp_path / "worker", stages) as demo:
            result = demo.run(dataset)
        with Demo(settings, tmp_path / "worker", stages) as demo:
            with pytest.raises(UsageError, match=r"flights\.scheduled.* hold records already"):
                demo.run(dataset)

    assert result.verdict.first == []
    assert result.verdict.checks > 20 * FLIGHTS
    figures = result.figures
    assert (figures.flights, figures.events_sent) == (FLIGHTS, figures.events_settled)
    assert figures.dead_letters == POISON_RECORDS
    assert figures.retried > 0
    assert figures.tasks.keys() == {"SUCCEEDED"}
    assert figures.visible_samples > 100
    assert figures.emit_to_visible_p99_ms is not None


class CrashingDemo(Demo):
    """Kills its worker twice during the replay and starts it again."""

    def __init__(self, settings: Mapping[str, str], folder: Path, stages: Stages) -> None:
        super().__init__(settings, folder, stages)
        self.looks = 0
        self.crashes = 0

    def watch(self) -> None:
        super().watch()
        if self.stages.current == "replay":
            self.looks += 1
            if self.looks in (3, 8):
                self.worker.kill()
                self.worker.start(self.settings)
                self.crashes += 1


@pytest.mark.chaos
def test_a_run_equals_the_oracle_although_its_worker_is_killed_twice(tmp_path: Path) -> None:
    with embedded(tmp_path / "stack") as stack:
        settings = stack.up().settings()
        with Stages(quiet=True) as stages, CrashingDemo(settings, tmp_path / "worker", stages) as demo:
            verdict = demo.run(Dataset.load(limit=FLIGHTS), rate=2_500).verdict

    assert demo.crashes == 2
    # At least once: what was not committed is settled, and poison dead-lettered, once more. Nothing else may differ.
    repeated = {("records", "settled"), ("dead letter", "count")}
    assert [found for found in verdict.first if (found.entity, found.field) not in repeated] == []
    assert verdict.checks > 20 * FLIGHTS
