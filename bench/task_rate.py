"""Tasks per second: submitted, run, SUCCEEDED and to be read in the view; every process counted.

    python bench/task_rate.py [--tasks 50000] [--workers 1] [--kind noop|incr] [--runs 3] [--json]

One process submits as fast as it can; ``--workers`` processes run the tasks; one projects. The clock starts with the
first submission and stops when the index says that every task has SUCCEEDED; then every task is read from the view and
compared. ``incr`` is what task queues are compared by: each task is one Redis INCR. Beside the rate stands the
processor time per task of each part, which other load on the machine disturbs less than the clock.

Without ``HEADWATER_KAFKA_BOOTSTRAP`` an embedded stack is started on free ports and removed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis.asyncio

from headwater_cache import RedisSettings
from headwater_ops.stack import Stack
from headwater_ops.worker import run as run_worker
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.topics import admin_client, apply, plan
from headwater_streams import StreamApp
from headwater_tasks import TaskClient, TaskState, install, task
from headwater_tasks.index import TaskIndex

TYPE = "bench.noop"
INCR = "bench.incr"
COUNTER = "bench:tasks:counter"


@task(TYPE)
async def noop(payload: Any) -> None: ...


_redis: redis.asyncio.Redis | None = None


@task(INCR)
async def incr(payload: Any) -> None:
    global _redis
    if _redis is None:
        _redis = redis.asyncio.Redis.from_url(os.environ["HEADWATER_REDIS_URL"])
    await _redis.incr(COUNTER)


def worker(group: str, concurrency: int) -> None:
    """The worker process."""
    app = StreamApp(group)
    install(app, noop, incr, concurrency=concurrency)
    run_worker(app, "error")


def projector() -> None:
    """The projector process."""
    from headwater_tasks.projector import app

    run_worker(app, "error")


@contextmanager
def stack() -> Iterator[dict[str, str]]:
    """Settings of the stack that is named, or of one of our own."""
    if os.environ.get("HEADWATER_KAFKA_BOOTSTRAP"):
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        own = Stack(Path(folder), ports="free")
        own.up()
        try:
            endpoints = own.endpoints()
            assert endpoints is not None
            yield endpoints.settings()
        finally:
            own.down(wipe=True)


def child(*arguments: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "HEADWATER_WORKER_HTTP": "127.0.0.1:0"}
    return subprocess.Popen([sys.executable, __file__, *arguments], env=env)


def cpu(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


async def one_run(client: TaskClient, index: TaskIndex, kind: str, count: int, parts: dict[str, Any]) -> dict[str, Any]:
    """Submit and watch; what it took."""
    before = {name: cpu(process) for name, process in parts.items()}
    had = (await index.acounts()).get((kind, TaskState.SUCCEEDED), 0)
    mine = time.process_time()
    began = time.perf_counter()
    handles = []
    for number in range(count):
        handles.append(client.submit(kind, {"number": number}))
        if not number % 256:
            await client.producer.drain()
            await asyncio.sleep(0)
    await asyncio.to_thread(client.producer.flush)
    submitted = time.perf_counter() - began
    mine = time.process_time() - mine
    while (await index.acounts()).get((kind, TaskState.SUCCEEDED), 0) < had + count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    total = time.perf_counter() - began
    used = {name: (cpu(process) - before[name]) / count * 1e6 for name, process in parts.items()}
    wrong = 0
    for start in range(0, count, 500):
        ids = [handle.id for handle in handles[start : start + 500]]
        found = await client._view.aget_many(ids)
        wrong += sum(1 for id_ in ids if id_ not in found or found[id_].state is not TaskState.SUCCEEDED)
    return {
        "tasks_per_second": round(count / total),
        "submits_per_second": round(count / submitted),
        "cpu_us_per_task": {"submitter": round(mine / count * 1e6, 1), **{k: round(v, 1) for k, v in used.items()}},
        "wrong": wrong,
    }


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    env = Environment()
    admin = admin_client(KafkaSettings.from_env(env))
    apply(plan([spec for spec in Catalogue.from_env(env).topics() if spec.name.startswith("task")], admin), admin)
    kind = {"noop": TYPE, "incr": INCR}[options.kind]
    group = f"bench-{uuid.uuid4().hex[:8]}"
    with ExitStack() as resources:
        parts = {"projector": child("--role", "projector")}
        for number in range(options.workers):
            parts[f"worker {number}"] = child("--role", "worker", "--group", group)
        for process in parts.values():
            resources.callback(process.wait)
            resources.callback(process.terminate)
        async with TaskClient.from_env(env) as client:
            index = TaskIndex(RedisSettings.from_env(env))
            for _ in range(8 * options.workers):
                await client.submit(kind)
            await (await client.submit(kind)).await_end("120s")
            results = [await one_run(client, index, kind, options.tasks, parts) for _ in range(options.runs)]
            await index.aclose()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kind", choices=["noop", "incr"], default="noop")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=["worker", "projector"], help=argparse.SUPPRESS)
    parser.add_argument("--group", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "worker":
        worker(options.group, 200)
    elif options.role == "projector":
        projector()
    else:
        with stack() as settings:
            os.environ.update(settings)
            results = asyncio.run(measure(options))
        rates = [result["tasks_per_second"] for result in results]
        if options.json:
            print(json.dumps({"kind": options.kind, "tasks": options.tasks, "runs": results}))
        else:
            for result in results:
                print(result)
            print(f"{options.kind}: {statistics.median(rates):.0f} tasks/s (median of {len(rates)})")


if __name__ == "__main__":
    main()
