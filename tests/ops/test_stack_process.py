"""Servers found again by pid file; never another program in their place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headwater_ops.stack.process import ServerProcess

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
IDLE = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess("thing", tmp_path)
    yield server
    server.stop(grace=0.0)


def run(server: ServerProcess, code: str) -> int:
    server.spawn([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while "up" not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process = server.find()
    assert process is not None
    return process.pid


def test_a_server_is_found_by_another_object(server: ServerProcess) -> None:
    pid = run(server, IDLE)

    found = ServerProcess("thing", server.folder).find()

    assert found is not None
    assert found.pid == pid


def test_a_server_has_a_session_of_its_own(server: ServerProcess) -> None:
    """So that ^C in the terminal, and the end of the terminal, do not reach it."""
    pid = run(server, IDLE)

    assert os.getsid(pid) != os.getsid(0)


def test_a_stopped_server_is_gone(server: ServerProcess) -> None:
    pid = run(server, IDLE)

    server.stop(grace=10.0)

    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert server.find() is None


def test_a_server_that_ignores_sigterm_is_killed(server: ServerProcess) -> None:
    run(server, STUBBORN)

    server.stop(grace=0.1)

    assert server.find() is None


def test_a_frozen_server_can_be_stopped(server: ServerProcess) -> None:
    run(server, IDLE)
    server.signal(signal.SIGSTOP)

    server.stop(grace=10.0)

    assert server.find() is None


def test_stopping_what_does_not_run_is_fine(server: ServerProcess) -> None:
    server.stop(grace=1.0)


def test_a_recycled_pid_is_not_ours_and_survives(server: ServerProcess, tmp_path: Path) -> None:
    """Given a pid file of a server that ended, whose pid another program has now."""
    with subprocess.Popen([sys.executable, "-c", IDLE], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        an_hour_before = psutil.Process(stranger.pid).create_time() - 3600
        (tmp_path / "pid.json").write_text(json.dumps({"pid": stranger.pid, "started": an_hour_before}))

        assert server.find() is None
        assert server.signal(signal.SIGKILL) is False
        server.stop(grace=0.0)

        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"pid": "x", "started": 0}', "[]", '{"pid": -1, "started": 0}'])
def test_a_damaged_pid_file_means_that_nothing_runs(server: ServerProcess, tmp_path: Path, content: str) -> None:
    (tmp_path / "pid.json").write_text(content)

    assert server.find() is None


def test_the_end_of_the_log_names_its_path(server: ServerProcess) -> None:
    server.log.write_text("".join(f"line {number}\n" for number in range(100)))

    tail = server.log_tail(lines=2)

    assert tail == f"the end of {server.log}:\n    line 98\n    line 99"
