"""A worker that is killed: its tasks come again, to another, and end once for whoever looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headwater_ops.stack import Endpoints
from headwater_tasks import TaskClient
from tasks.real import until, worker_process

pytestmark = pytest.mark.timeout(90)

WORKER = """
import asyncio
from headwater_streams import StreamApp
from headwater_tasks import TaskContext, install, task

@task("{name}.work")
async def work(payload: float, ctx: TaskContext) -> str:
    ctx.progress(0.1)
    with open({log!r}, "a") as log:
        log.write(ctx.id + "\\n")
    await asyncio.sleep(payload)
    return "done"

app = StreamApp("{name}")
install(app, work, tiers=("1s",))
"""


async def test_tasks_of_a_killed_worker_are_run_by_the_next(
    client: TaskClient,
    endpoints: Endpoints,
    tmp_path: Path,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = unique("crash")
    log = tmp_path / "ran"
    (tmp_path / "crashing.py").write_text(WORKER.format(name=name, log=str(log)))
    monkeypatch.chdir(tmp_path)
    first = worker_process("crashing:app", endpoints, tmp_path / "first.log")
    second = worker_process("crashing:app", endpoints, tmp_path / "second.log", HEADWATER_WORKER_COMMIT_INTERVAL="1s")
    with first as process:
        quick = [await client.submit(f"{name}.work", 0.0) for _ in range(20)]
        for handle in quick:
            await handle.await_end("40s")
        slow = await client.submit(f"{name}.work", 2.0)
        running = await until(slow.aget, lambda found: found is not None and found.state == "RUNNING")
        process.kill()

    with second:
        done = await slow.await_end("60s")

    assert (done.state, done.result, done.run, done.attempt) == ("SUCCEEDED", b'"done"', 1, 1)
    assert running is not None
    assert running.started_at is not None
    assert done.started_at is not None
    assert done.started_at > running.started_at
    ran = log.read_text().split()
    assert ran.count(slow.id) == 2
    assert {handle.id for handle in quick} < set(ran)
    for handle in quick:
        found = await handle.aget()
        assert found is not None
        assert found.state == "SUCCEEDED"
