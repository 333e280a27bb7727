"""Server processes that outlive the command that started them, found again by pid file.

A pid file holds the pid and the start time of the process, so that a pid which the kernel has given to another program
since is never signalled. A zombie counts as ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from headwater_ops.stack.errors import StartFailed

__all__ = ["ServerProcess", "log_tail"]

# Start times come from the boot time, which may move by a clock correction; a pid is not reused this quickly.
_START_TOLERANCE = 5.0

_LOG_BYTES = 10 << 20  # a longer log is set aside at the next start, and replaces the one before

# The shell ends at once, so the server is nobody's child: no zombie, and no handle that must be kept.
_DETACH = 'log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!'


def log_tail(log: Path, lines: int) -> str:
    """The end of a log, introduced by its path; for error messages."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return f"it wrote no log at {log}"
    return "\n".join([f"the end of {log}:", *(f"    {line}" for line in text)])


class ServerProcess:
    """One server, known by its folder: ``<folder>/pid.json`` and ``<folder>/<name>.log``."""

    __slots__ = ("_pid_file", "folder", "log", "name")

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._pid_file = folder / "pid.json"

    def spawn(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the server in a session of its own, its output appended to the log. Returns at once; not ready yet.

        Raises:
            StartFailed: it ended at once; the message has its log.
        """
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        shell = subprocess.run(
            ["/bin/sh", "-c", _DETACH, "sh", str(self.log), *command],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            check=True,
        )
        self._write(int(shell.stdout))

    def _write(self, pid: int) -> None:
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            raise StartFailed(f"{self.name} ended at once; {self.log_tail()}") from None
        partial = self._pid_file.with_suffix(".partial")
        partial.write_text(json.dumps({"pid": pid, "started": started}))
        partial.replace(self._pid_file)

    def find(self) -> psutil.Process | None:
        """The running process, or ``None`` when there is none that is ours."""
        try:
            entry = json.loads(self._pid_file.read_text())
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["started"])) > _START_TOLERANCE:
                return None  # the pid was given to another program since
            # While a killed JVM takes itself apart its first thread is a zombie already, but it still holds its ports.
            if process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
                return None
        except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
            return None
        return process

    def signal(self, number: int) -> bool:
        """Send a signal; ``False`` when there is no process of ours."""
        process = self.find()
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        return True

    def stop(self, grace: float) -> None:
        """Terminate, wait up to ``grace`` seconds, then kill. Blocks until the process is gone; fine when it is."""
        process = self.find()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)  # a stopped process would not see the SIGTERM
                process.terminate()
                if not self.wait_gone(grace):
                    process.kill()
                    self.wait_gone(10.0)
        self._pid_file.unlink(missing_ok=True)

    def wait_gone(self, timeout: float) -> bool:
        """Block until the process has ended; ``False`` when it still runs after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.find() is not None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def log_tail(self, lines: int = 12) -> str:
        """The end of the log, introduced by its path; for error messages."""
        return log_tail(self.log, lines)
