"""The demo's worker as a process: started, asked how it is, stopped."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from headwater_ops.stack.ports import HOST, choose
from headwater_ops.stack.process import ServerProcess
from headwater_schemas.errors import StackUnavailable

__all__ = ["DemoWorker", "Metrics"]

_APP = "headwater_ops.demo.app:app"
_GRACE = 40.0
_REQUEST = 5.0


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))

    def total(self, name: str, **labels: str) -> int:
        """The sum of all samples of this name that carry these labels."""
        return round(
            sum(
                sample.value
                for family in self._families
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )
        )


class DemoWorker:
    """``headwater worker headwater_ops.demo.app:app`` in the background, its log and pid file in ``folder``.

    One that an earlier run left behind is stopped first.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._process = ServerProcess("worker", folder)
        self._process.stop(_GRACE)
        self._process.log.unlink(missing_ok=True)
        self.url = ""

    def start(self, settings: Mapping[str, str]) -> None:
        """Start it with these settings. Returns at once.

        Raises:
            StackUnavailable: it ended at once.
        """
        port = choose("free", 0, (), "the demo's worker")
        self.url = f"http://{HOST}:{port}"
        command = [
            sys.executable,
            "-m",
            "headwater_ops.cli",
            "worker",
            "headwater_ops.demo.app:app",
            "--log-level",
            "warning",
        ]
        self._process.spawn(command, {**settings, "HEADWATER_WORKER_HTTP": f"{HOST}:{port}"})

    def await_ready(self, timeout: float = 60.0) -> None:
        """Block until it has its partitions.

        Raises:
            StackUnavailable: it ended, or is not ready in time; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout
        while self._get("/readyz") is None:
            self.check()
            if time.monotonic() > deadline:
                raise StackUnavailable(f"the worker is not ready after {timeout:.0f} s; {self._process.log_tail()}")
            time.sleep(0.1)

    def check(self) -> None:
        """See that it runs.

        Raises:
            StackUnavailable: it does not; the message has the end of its log.
        """
        if self._process.find() is None:
            raise StackUnavailable(f"the worker has ended; {self._process.log_tail(40)}")

    def metrics(self) -> Metrics:
        """What it counted so far.

        Raises:
            StackUnavailable: it does not answer.
        """
        text = self._get("/metrics")
        if text is None:
            self.check()
            raise StackUnavailable(f"the worker does not answer; {self._process.log_tail()}")
        return Metrics(text)

    def stop(self) -> None:
        """Let it finish what it has, commit and end. Blocks; fine when it does not run."""
        self._process.stop(_GRACE)

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=_REQUEST) as response:
                text: str = response.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return None
