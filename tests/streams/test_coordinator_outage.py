"""Asking a group's coordinator that goes away and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headwater_ops.stack import Stack

pytestmark = pytest.mark.timeout(180)

# In a process of its own, since what is feared is its abort.
_ASKS = """
import sys
from confluent_kafka import KafkaException
from headwater_schemas.admin import Coordinator
from headwater_schemas.settings import KafkaSettings
coordinator = Coordinator(KafkaSettings(sys.argv[1]))
for line in sys.stdin:
    try:
        print(len(coordinator.members(sys.argv[2], 1.0)), flush=True)
    except KafkaException as exc:
        print(exc.args[0].name(), flush=True)
"""


class Asker:
    """``ask`` gives how many members the group has, or the error's name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def await_answer(self) -> None:
        """A coordinator that is new says for a while that it is none, or loads."""
        deadline = time.monotonic() + 60
        while (answer := self.ask()) != "0":
            assert self._process.poll() is None, "it was aborted"
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)


@contextmanager
def asker(bootstrap: str, group: str) -> Iterator[Asker]:
    command = [sys.executable, "-c", _ASKS, bootstrap, group]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Asker(process)
    assert process.returncode == 0


def test_a_coordinator_that_is_away_for_longer_than_we_wait_ends_nobody(stack: Stack) -> None:
    endpoints = stack.endpoints()
    assert endpoints is not None
    with asker(endpoints.bootstrap, f"nobody-{uuid.uuid4().hex[:6]}") as group:
        group.await_answer()
        stack.kill("broker-1")
        away = [group.ask() for _ in range(3)]
        stack.start("broker-1")
        group.await_answer()

    assert set(away) & {"_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN"}
