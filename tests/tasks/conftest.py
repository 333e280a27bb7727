"""What the tests of the tasks share: the topics, one projection for all, a client each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headwater_cache import EntityCache
from headwater_ops.demo.catalogue import CONTRACT_FOLDER
from headwater_ops.stack import Endpoints
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.errors import Unavailable
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.topics import admin_client, apply, plan
from headwater_streams import StreamApp
from headwater_tasks import TaskClient, TaskFunction
from headwater_tasks.changes import CHANGES, CONTROL, DOMAIN, ENTITY, TASKS
from tasks.real import Workers, running_worker, worker_process


@pytest.fixture(scope="session")
def topics(endpoints: Endpoints) -> Environment:
    """Settings of a stack that has the topics of the tasks."""
    env = Environment(endpoints.settings() | {"HEADWATER_CONTRACTS": str(CONTRACT_FOLDER)})  # to emit what is no task
    # Fewer partitions than are shipped: every worker of a test makes as many topics of its own of each.
    names = (TASKS, CONTROL, CHANGES)
    declared = [replace(spec, partitions=2) for spec in Catalogue.from_env(env).topics() if spec.name in names]
    admin = admin_client(KafkaSettings.from_env(env))
    apply(plan(declared, admin), admin)
    return env


@pytest.fixture(scope="session")
def projection(endpoints: Endpoints, topics: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The projector, as the process that it is in production."""
    log = tmp_path_factory.mktemp("projector") / "log"
    worker = worker_process("headwater_tasks.projector:app", endpoints, log)
    with worker, EntityCache[Any](ENTITY, endpoints.redis_url, domain=DOMAIN) as view:
        _wait_until_ready(view)
        yield


def _wait_until_ready(view: EntityCache[Any]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            view.get("nobody's", max_staleness="2s")
        except Unavailable:
            assert time.monotonic() < deadline, "the projector has not caught up in a minute"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
async def client(topics: Environment, projection: None) -> AsyncIterator[TaskClient]:
    """A client whose states are kept by the projection."""
    async with TaskClient.from_env(topics, source="tests") as made:
        yield made


@pytest.fixture
def working(topics: Environment, tmp_path: Path) -> Workers:
    """``async with working("name", render)`` runs a worker of these tasks in the test's loop."""

    def run(name: str, *functions: TaskFunction[..., Any], **options: Any) -> AbstractAsyncContextManager[StreamApp]:
        return running_worker(topics, tmp_path, name, *functions, **options)

    return run
