"""The page about the first service, done: its files are written, its commands run, their output compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.embedded import embedded
from headwater_ops.stack import Endpoints

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "first-service.md").read_text("utf-8")
INSTALL, _, REST = PAGE.partition("## The files")
SECONDS = 60.0


@dataclass(frozen=True)
class Command:
    """A line after ``$``, and the output that the page shows."""

    line: str
    output: str

    def printed(self, text: str) -> bool:
        """Whether ``text`` has the lines of the page, one after another; ``…`` stands for anything."""
        lines = [".*".join(map(re.escape, line.split("…"))) for line in self.output.splitlines()]
        return re.search("^" + r"$(?s:.)*?^".join(lines) + "$", text, re.MULTILINE) is not None


def files() -> dict[str, str]:
    return dict(re.findall(r'```\w+ title="([^"]*)"\n(.*?)```', REST, re.DOTALL))


def commands(text: str) -> list[Command]:
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [Command(line, output) for line, _, output in (part.partition("\n") for part in parts)]


class Shell:
    """A shell in the service's folder. What it exports is there for the next command."""

    def __init__(self, folder: Path, endpoints: Endpoints) -> None:
        self._folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = os.environ | endpoints.settings() | {"PATH": path, "HEADWATER_WORKER_HTTP": "127.0.0.1:0"}

    def export(self, line: str) -> None:
        name, _, value = line.removeprefix("export ").partition("=")
        self._env[name] = value.replace("$PWD", str(self._folder))

    def run(self, command: Command) -> None:
        done = subprocess.run(
            command.line,
            shell=True,
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout
        assert command.printed(done.stdout), f"{command}\nbut it printed\n{done.stdout}"

    @contextmanager
    def running(self, command: Command) -> Iterator[None]:
        """It stays while the block runs; at the end the page's output must come, and ^C must end it."""
        log = self._folder / "worker.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command.line.split(), cwd=self._folder, env=self._env, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield
            deadline = time.monotonic() + SECONDS
            while not command.printed(log.read_text()):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Servers of its own: what the page makes may be there already on those of other tests, and made otherwise."""
    with embedded(tmp_path_factory.mktemp("stack")) as stack:
        yield stack.up("kafka", "registry")


@pytest.mark.integration
def test_the_service_of_the_page_works_as_the_page_says(tmp_path: Path, endpoints: Endpoints) -> None:
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    shell = Shell(tmp_path, endpoints)
    with ExitStack() as workers:
        for command in commands(REST):
            if command.line == "headwater up":
                continue  # the test has servers already
            if command.line.startswith("export "):
                shell.export(command.line)
            elif command.line.startswith("headwater worker "):
                workers.enter_context(shell.running(command))
            else:
                shell.run(command)


def test_the_page_has_the_way_from_the_files_to_a_handled_event() -> None:
    assert list(files()) == ["topics.toml", "contracts/Order.avsc", "app.py", "pytest.ini", "test_app.py"]
    line_of = " ".join(command.line for command in commands(REST))
    steps = ("schemas generate", "pytest", "headwater up", "topics apply --register", "worker", "emit", "tail")
    assert [line_of.index(step) for step in steps] == sorted(line_of.index(step) for step in steps)


def test_the_page_installs_every_package_from_the_repository() -> None:
    from_index, from_clone = (c.line for c in commands(INSTALL) if c.line.startswith("pip install"))
    folders = re.findall(r"\./(\w+)", from_clone)
    assert sorted(folders) == sorted(path.parent.name for path in ROOT.glob("*/pyproject.toml"))
    assert set(re.findall(r"headwater-(\w+)", from_index)) <= set(folders)
    assert re.findall(r" (pytest\S*)", from_index) == re.findall(r" (pytest\S*)", from_clone)
