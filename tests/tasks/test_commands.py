"""``headwater tasks`` and ``headwater api``, as people type them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from headwater_ops.cli import main
from headwater_ops.stack import Endpoints
from headwater_tasks.http.keys import new_key

pytestmark = pytest.mark.timeout(90)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def headwater(
    endpoints: Endpoints, projection: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command line against the stack, in this process."""
    for name, value in {**endpoints.settings(), "NO_COLOR": "1", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def test_a_task_is_submitted_seen_cancelled_and_listed(headwater: Run, unique: Callable[[str], str]) -> None:
    name = unique("nobody")
    submitted = headwater("tasks", "submit", name, '{"n": 1}', "--key", "k-1", "--json")
    assert submitted.code == 0, submitted.err
    task = json.loads(submitted.out)

    shown = json.loads(headwater("tasks", "get", task["id"], "--json").out)
    assert (shown["state"], [step["state"] for step in shown["history"]]) == ("PENDING", ["PENDING"])
    assert task["id"] in headwater("tasks", "get", task["id"]).out
    refused = headwater("tasks", "retry", task["id"])
    assert (refused.code, "PENDING" in refused.err, "Traceback" in refused.err) == (2, True, False)
    assert headwater("tasks", "cancel", task["id"], "--reason", "a test").code == 0
    assert json.loads(headwater("tasks", "list", "--type", name, "--state", "dead", "--json").out)["tasks"] == []


def test_wrong_input_is_answered_in_one_line(headwater: Run) -> None:
    for arguments in (
        ("tasks", "submit", "a.b", "{not json"),
        ("tasks", "submit", "Not A Type"),
        ("tasks", "get", "no-such-task"),
        ("tasks", "list", "--state", "asleep"),
        ("api", "new-key", "a", "--scope", "everything"),
    ):
        answer = headwater(*arguments)
        assert answer.code == 2, arguments
        assert len(answer.err.strip().splitlines()) == 1, answer.err


@pytest.fixture
def served(endpoints: Endpoints, projection: None, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A running ``headwater api``: its address and a key that may read tasks."""
    token, table = new_key("reader", ["tasks:read"])
    (tmp_path / "keys.toml").write_text(table)
    address = f"127.0.0.1:{free_port()}"
    env = {
        **os.environ,
        **endpoints.settings(),
        "HEADWATER_API_HTTP": address,
        "HEADWATER_API_KEYS": str(tmp_path / "keys.toml"),
    }
    command = [sys.executable, "-m", "headwater_ops.cli", "api"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield f"http://{address}", token
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_api_serves_those_who_have_a_key(served: tuple[str, str]) -> None:
    address, token = served
    with httpx.Client(base_url=address) as http:
        deadline = time.monotonic() + 60
        while True:
            try:
                ready = http.get("/readyz")
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline, "the API does not listen"
                time.sleep(0.1)
        assert ready.status_code == 200
        http.headers["Authorization"] = f"Bearer {token}"
        listed = http.get("/v1/tasks", params={"limit": 1})
        assert listed.status_code == 200, listed.text
        assert http.post("/v1/tasks", json={"type": "a"}).status_code == 403
        assert http.get("/v1/tasks", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert "server" not in listed.headers
        document = http.get("/v1/openapi.json").json()
        assert document["paths"]["/v1/tasks"]["post"]["responses"]["422"]["content"].keys() == {
            "application/problem+json"
        }
        assert document["components"]["schemas"]["Problem"]
