"""``headwater outbox``: create, relay, and see to what could not be sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from headwater_ops.cli import main
from headwater_producers.outbox import Outbox, OutboxEvent
from producers.orders import order, read_all


@pytest.fixture
def environment(tmp_path: Path, bootstrap: str) -> dict[str, str]:
    return {
        "HEADWATER_KAFKA_BOOTSTRAP": bootstrap,
        "HEADWATER_OUTBOX_URL": f"sqlite:///{tmp_path}/outbox.db",
        "HEADWATER_OUTBOX_HTTP": "127.0.0.1:0",
    }


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Headwater = Callable[..., Done]


@pytest.fixture
def headwater(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Headwater:
    """Runs ``headwater outbox`` in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(["outbox", *arguments])
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


def add(environment: dict[str, str], outbox: Outbox, topic: str, event_id: str, error: str | None = None) -> None:
    engine = create_engine(environment["HEADWATER_OUTBOX_URL"])
    with Session(engine) as session, session.begin():
        outbox.add(session, topic, order(1), "a", id=event_id)
        if error is not None:
            session.flush()
            session.query(OutboxEvent).filter_by(id=event_id).update({"error": error})
    engine.dispose()


def test_once_sends_what_is_there_and_ends(
    headwater: Headwater, environment: dict[str, str], outbox: Outbox, topic: str, bootstrap: str
) -> None:
    assert headwater("create").returncode == 0
    add(environment, outbox, topic, "1")
    done = headwater("relay", "--once")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 events relayed" in done.stderr
    assert len(read_all(bootstrap, topic)) == 1


def test_a_database_without_an_outbox_is_said(headwater: Headwater) -> None:
    done = headwater("relay", "--once")
    assert done.returncode == 2
    assert "create_outbox" in done.stderr


def test_parked_events_are_shown_and_sent_again(
    headwater: Headwater, environment: dict[str, str], outbox: Outbox, topic: str, bootstrap: str
) -> None:
    headwater("create")
    add(environment, outbox, topic, "1", error="too large")
    [event] = json.loads(headwater("parked", "--json").stdout)
    assert (event["id"], event["topic"], event["key"], event["error"]) == ("1", topic, "a", "too large")
    assert headwater("retry").returncode == 2
    assert "0 events" in headwater("retry", "other").stdout
    assert "1 events" in headwater("retry", "--all").stdout
    assert headwater("relay", "--once").returncode == 0
    assert len(read_all(bootstrap, topic)) == 1


def test_the_relay_runs_until_it_is_told_to_end(
    headwater: Headwater, environment: dict[str, str], outbox: Outbox, topic: str, bootstrap: str
) -> None:
    headwater("create")
    with subprocess.Popen(
        [sys.executable, "-m", "headwater_ops.cli", "outbox", "relay"],
        env=os.environ | environment | {"HEADWATER_OUTBOX_POLL": "100ms"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        url = next(line for line in process.stderr if "/metrics" in line).split()[-1]
        add(environment, outbox, topic, "1")
        deadline = time.monotonic() + 30
        while not read_all(bootstrap, topic):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert f'headwater_outbox_relay_seconds_count{{topic="{topic}"}} 1.0' in answer.read().decode()
        with urllib.request.urlopen(url.replace("metrics", "livez"), timeout=5) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
