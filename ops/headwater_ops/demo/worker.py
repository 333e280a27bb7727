"""The demo's worker as a process: started, asked how it is, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from headwater_ops.stack.ports import HOST, choose
from headwater_ops.stack.process import log_tail
from headwater_schemas.errors import StackUnavailable

__all__ = ["DemoWorker", "Metrics"]

_GRACE = 40.0
_REQUEST = 5.0
_TAIL = 40


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
    """The worker in the background, its log in ``folder``. It ends when this process does, however that ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "worker.log"
        self._log.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, settings: Mapping[str, str]) -> None:
        """Start it with these settings. Returns at once."""
        port = choose("free", 0, (), "the demo's worker")
        self.url = f"http://{HOST}:{port}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headwater_ops.demo.leash"],
                env={**os.environ, **settings, "HEADWATER_WORKER_HTTP": f"{HOST}:{port}"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a ^C is ours to pass on
            )

    def await_ready(self, timeout: float = 60.0) -> None:
        """Block until it has its partitions.

        Raises:
            StackUnavailable: it ended, or is not ready in time; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout
        while self._get("/readyz") is None:
            self.check()
            if time.monotonic() > deadline:
                raise StackUnavailable(f"the worker is not ready after {timeout:.0f} s; {log_tail(self._log, _TAIL)}")
            time.sleep(0.1)

    def check(self) -> None:
        """See that it runs.

        Raises:
            StackUnavailable: it does not; the message has the end of its log.
        """
        if self._process is None or self._process.poll() is not None:
            raise StackUnavailable(f"the worker has ended; {log_tail(self._log, _TAIL)}")

    def metrics(self) -> Metrics:
        """What it counted so far.

        Raises:
            StackUnavailable: it does not answer.
        """
        text = self._get("/metrics")
        if text is None:
            self.check()
            raise StackUnavailable(f"the worker does not answer; {log_tail(self._log, _TAIL)}")
        return Metrics(text)

    def kill(self) -> None:
        """End it as a crash would: it finishes, commits and says nothing. Blocks until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it finish what it has, commit and end. Blocks; fine when it does not run."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=_REQUEST) as response:
                text: str = response.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return None
