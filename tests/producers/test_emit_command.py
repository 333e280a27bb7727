"""``headwater emit``: JSON lines in, acknowledged events out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater_ops.stack import Endpoints
from producers.orders import SCHEMA, create_topic, order, read_all


@pytest.fixture
def contracts(tmp_path: Path, topic_name: str) -> Path:
    """A contract folder with the topic of this test."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "Order.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "topics.toml").write_text(f'[topics."{topic_name}"]\nschema = "Order"\n')
    return tmp_path


def emit(endpoints: Endpoints, contracts: Path, *arguments: str, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater_ops.cli", "emit", *arguments],
        env=os.environ | endpoints.settings() | {"HEADWATER_CONTRACTS": str(contracts)},
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_each_line_becomes_an_event(endpoints: Endpoints, contracts: Path, topic: str) -> None:
    lines = "\n".join(json.dumps(order(number)) for number in range(50))
    done = emit(endpoints, contracts, topic, "--key", "order_id", lines=lines + "\n\n")

    assert (done.returncode, done.stdout) == (0, "")
    assert f"50 events to {topic} acknowledged" in done.stderr
    assert {record.key for record in read_all(endpoints.bootstrap, topic)} == {b"o-%d" % n for n in range(50)}


def test_a_line_that_does_not_fit_is_named_and_the_lines_before_it_stand(
    endpoints: Endpoints, contracts: Path, topic: str
) -> None:
    lines = "\n".join([json.dumps(order(1)), json.dumps(order(2, amount="many")), json.dumps(order(3))])
    done = emit(endpoints, contracts, topic, lines=lines)

    assert done.returncode == 2
    assert "line 2: " in done.stderr
    assert "amount" in done.stderr
    assert len(read_all(endpoints.bootstrap, topic)) == 1


def test_a_key_that_is_no_field_is_refused(endpoints: Endpoints, contracts: Path, topic_name: str) -> None:
    create_topic(endpoints.bootstrap, topic_name)
    done = emit(endpoints, contracts, topic_name, "--key", "colour", lines=json.dumps(order(1)))

    assert done.returncode == 2
    assert "it has order_id, amount, note" in done.stderr


def test_a_rate_is_kept(endpoints: Endpoints, contracts: Path, topic: str) -> None:
    lines = "\n".join(json.dumps(order(number)) for number in range(60))
    done = emit(endpoints, contracts, topic, "--rate", "20/s", lines=lines)

    assert done.returncode == 0, done.stderr
    assert "20 events acknowledged" in done.stderr or "40 events acknowledged" in done.stderr
    assert len(read_all(endpoints.bootstrap, topic)) == 60
