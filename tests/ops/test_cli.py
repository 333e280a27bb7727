"""The ``headwater`` command: exit codes, one clear line per error, a quick start."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from headwater_ops import cli
from headwater_ops.stack import Stack
from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, SettingError

HEADWATER = [sys.executable, "-m", "headwater_ops.cli"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A verb ``status`` that raises the error put into the list."""
    errors: list[BaseException] = []

    def command() -> None:
        raise errors[0]

    module = ModuleType("headwater_ops.commands.status")
    module.command = command  # type: ignore[attr-defined]  # made for the test
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return errors


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(args)
    code = exit_.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("error", "code"), [(SettingError("pass host:port"), 2), (BrokerUnavailable("no answer in 5 s"), 1)]
)
def test_an_error_of_ours_is_one_line_and_an_exit_code(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], error: HeadwaterError, code: int
) -> None:
    failing.append(error)

    assert run("status") == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"headwater: {error}\n"


def test_debug_shows_where_an_error_came_from(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(SettingError("pass host:port"))

    assert run("--debug", "status") == 2

    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())

    assert run("status") == 130

    assert "Traceback" not in capsys.readouterr().err


def test_an_error_that_is_not_ours_is_not_hidden(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError("a bug"))

    with pytest.raises(ZeroDivisionError):
        cli.main(["status"])


def test_a_misspelt_verb_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("staus") == 2

    assert "status" in capsys.readouterr().err


def test_an_unknown_setting_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_STATE_DIRECTORY", "x")

    assert run("status") == 2

    assert "did you mean HEADWATER_STATE_DIR?" in capsys.readouterr().err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0

    out = capsys.readouterr().out
    assert all(verb in out for verb in ("up", "down", "status", "doctor"))


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0

    assert capsys.readouterr().out.startswith("headwater 0.")


def test_the_command_starts_without_what_only_some_verbs_need() -> None:
    """Given all verbs imported, as for ``--help``."""
    heavy = {
        "avro",
        "confluent_kafka",
        "fastapi",
        "fastavro",
        "faust",
        "httpx",
        "jgo",
        "redis",
        "sqlalchemy",
        "uvicorn",
    }
    code = (
        "import sys; from headwater_ops import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print('heavy:', sorted({heavy} & set(sys.modules)))"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert out.splitlines()[-1] == "heavy: []"


def test_status_where_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))

    assert run("status") == 1
    assert "headwater up starts one" in capsys.readouterr().out
    assert run("status", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_status_of_a_running_stack_is_json(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(stack.state_dir))

    assert run("status", "--json") == 0

    parts = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in parts] == ["broker-1", "redis", "registry"]
    assert all(part["ready"] and part["pid"] and part["memory"] for part in parts)


def test_up_prints_where_a_running_stack_is(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(stack.state_dir))
    endpoints = stack.endpoints()
    assert endpoints is not None

    assert run("up", "--export") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"export {name}={value}" for name, value in endpoints.settings().items()
    ]
    assert run("up", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bootstrap"] == endpoints.bootstrap


@pytest.mark.integration
def test_an_interrupted_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """Given ^C while the servers start."""
    state = tmp_path / "state"
    env = {**os.environ, "HEADWATER_STATE_DIR": str(state)}
    # A shell that runs the tests in the background lets them ignore SIGINT, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([*HEADWATER, "up"], env=env, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        deadline = time.monotonic() + 60
        while not (state / "stack" / "registry" / "pid.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert not any(part.pid for part in Stack(state).status())
