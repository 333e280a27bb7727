"""The HTTP API in this process, on the real stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.stack import Stack
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.topics import admin_client, apply, plan
from headwater_tasks import TaskClient, TaskContext, task
from headwater_tasks.http import create_app
from producers.broker import Broker
from tasks.real import Workers, until

pytestmark = pytest.mark.timeout(60)

CANCELLED = {
    "flight_id": "f-1",
    "carrier": "UA",
    "flight_number": 1,
    "origin": "EWR",
    "destination": "IAH",
    "scheduled_departure": "2013-01-01T10:00:00Z",
    "cancelled_at": "2013-01-01T10:00:00Z",
}


@pytest.fixture
async def http(client: TaskClient) -> AsyncIterator[httpx.AsyncClient]:
    """A caller on this machine; no keys are set."""
    app = create_app(client, None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


def problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:headwater:problem:{name}"
    assert document["status"] == status
    return document


async def test_a_submitted_task_is_where_its_location_says(
    http: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    name = unique("nobody")

    answer = await http.post("/v1/tasks", json={"type": name, "payload": {"a": 1}})
    assert answer.status_code == 202
    found = await http.get(answer.headers["Location"])

    assert found.status_code == 200
    assert found.json() == answer.json()
    assert (found.json()["type"], found.json()["state"]) == (name, "PENDING")


async def test_a_task_can_be_followed_to_its_end(
    http: httpx.AsyncClient, working: Workers, unique: Callable[[str], str]
) -> None:
    name = unique("followed")

    @task(f"{name}.slow")
    async def slow(payload: Any, ctx: TaskContext) -> dict[str, Any]:
        ctx.progress(0.5, "half way")
        await asyncio.sleep(0.5)
        return {"doubled": payload["n"] * 2}

    async with working(name, slow):
        id_ = (await http.post("/v1/tasks", json={"type": slow.type, "payload": {"n": 21}})).json()["id"]
        stream = await http.get(f"/v1/tasks/{id_}/events")

    assert stream.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in stream.text.strip().split("\n\n")]
    states = [json.loads(event["data"]) for event in events]
    assert [state["state"] for state in states][-2:] == ["RUNNING", "SUCCEEDED"]
    assert (states[-2]["progress"], states[-2]["message"]) == (0.5, "half way")
    assert states[-1]["result"] == {"doubled": 42}
    assert [int(event["id"]) for event in events] == sorted({int(event["id"]) for event in events})
    history = (await http.get(f"/v1/tasks/{id_}/history")).json()
    assert [state["state"] for state in history["states"]] == ["PENDING", "RUNNING", "SUCCEEDED"]


async def test_the_same_idempotency_key_gives_the_same_task(
    http: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    body, headers = {"type": unique("nobody")}, {"Idempotency-Key": "k-1"}

    first = await http.post("/v1/tasks", json=body, headers=headers)
    again = await http.post("/v1/tasks", json={**body, "payload": "another"}, headers=headers)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()


async def test_a_page_ends_with_the_way_to_the_next(
    http: httpx.AsyncClient, working: Workers, unique: Callable[[str], str]
) -> None:
    name = unique("pages")

    @task(name)
    async def quick(payload: Any) -> None: ...

    async with working(name, quick):
        ids = [(await http.post("/v1/tasks", json={"type": name})).json()["id"] for _ in range(5)]
        done = {"type": name, "state": "SUCCEEDED"}
        await until(lambda: http.get("/v1/tasks", params=done), lambda page: len(page.json()["tasks"]) == 5)

    first = await http.get("/v1/tasks", params={"type": name, "limit": 2})
    link = first.headers["Link"]
    second = await http.get(link[1 : link.index(">")])
    third = await http.get("/v1/tasks", params={"type": name, "limit": 2, "cursor": second.json()["cursor"]})

    pages = [[found["id"] for found in page.json()["tasks"]] for page in (first, second, third)]
    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    assert third.json()["cursor"] is None
    assert "Link" not in third.headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.type"),
        ({"type": "a", "payloud": 1}, "body.payloud"),
        ({"type": "a", "delay": "soon"}, "body.delay"),
        ({"type": "a", "delay": -1}, "body.delay"),
        ({"type": 7}, "body.type"),
        ([], "body"),
    ],
)
async def test_a_wrong_body_is_refused_with_the_field(http: httpx.AsyncClient, body: Any, field: str) -> None:
    answer = problem(await http.post("/v1/tasks", json=body), 422, "invalid")

    assert field in [error["field"] for error in answer["errors"]]


async def test_what_is_not_json_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    problem(await http.post("/v1/tasks", content=b"{", headers=headers), 400, "bad-request")
    problem(await http.post("/v1/tasks", content=b"type=a", headers={"Content-Type": "text/plain"}), 422, "invalid")
    problem(await http.post("/v1/tasks", json={"type": "No Type"}), 422, "invalid")


async def test_a_body_that_is_too_long_is_refused_however_it_is_sent(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b'"' + b"x" * 100_000

    headers = {"Content-Type": "application/json"}
    problem(await http.post("/v1/tasks", content=endless(), headers=headers), 413, "too-large")
    problem(await http.post("/v1/tasks", json={"type": "a", "payload": "x" * 5_000_000}), 413, "too-large")
    problem(await http.post("/v1/tasks", json={"type": "a", "payload": "x" * 1_500_000}), 413, "too-large")


async def test_an_unknown_query_parameter_is_refused_by_name(http: httpx.AsyncClient) -> None:
    answer = problem(await http.get("/v1/tasks", params={"stat": "DEAD"}), 422, "invalid")

    assert answer["errors"][0]["field"] == "query.stat"
    assert "state" in answer["errors"][0]["message"]
    problem(await http.get("/v1/tasks", params={"state": "ASLEEP"}), 422, "invalid")
    problem(await http.get("/v1/tasks", params={"cursor": "x"}), 422, "invalid")
    problem(await http.get("/v1/tasks/some-id", params={"verbose": "1"}), 422, "invalid")


async def test_what_is_not_there_is_a_problem_too(http: httpx.AsyncClient) -> None:
    problem(await http.get("/v1/nothing"), 404, "not-found")
    problem(await http.put("/v1/tasks", json={}), 405, "method-not-allowed")


@pytest.fixture
def cancelled(env: Environment) -> str:
    """A topic of the demo, on the broker."""
    admin = admin_client(KafkaSettings.from_env(env))
    apply(plan([demo_catalogue().topic("flights.cancelled")], admin), admin)
    return "/v1/events/flights.cancelled"


@pytest.mark.usefixtures("cancelled")
async def test_an_event_is_checked_and_emitted(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/events/flights.cancelled", json={"key": "f", "value": {"flight_id": 7}})
    assert problem(refused, 422, "invalid")["errors"][0]["field"].startswith("body.value.")
    problem(await http.post("/v1/events/flights.canceled", json={"value": {}}), 404, "unknown-topic")
    problem(await http.post("/v1/events/task.changes", json={"key": "x", "value": {}}), 403, "forbidden")

    answer = await http.post("/v1/events/flights.cancelled", json={"key": "f-1", "value": CANCELLED})
    assert answer.status_code == 201, answer.text
    assert answer.json()["topic"] == "flights.cancelled"
    assert answer.json()["offset"] >= 0


async def test_an_event_that_is_not_acknowledged_in_time_can_be_repeated_as_the_same_event(
    http: httpx.AsyncClient, stack: Stack, env: Environment, cancelled: str
) -> None:
    broker = Broker(stack)
    if broker.bootstrap != env.text("HEADWATER_KAFKA_BOOTSTRAP"):
        pytest.skip("only the embedded broker can be frozen")
    body = {"key": "f-2", "value": CANCELLED, "id": "cancellation-2", "timeout": "300ms"}
    assert (await http.post(cancelled, json=body | {"timeout": "20s"})).status_code == 201
    broker.freeze()
    try:
        late = await http.post(cancelled, json=body)
    finally:
        broker.thaw()
    answer = problem(late, 503, "unavailable")
    assert "event cancellation-2 is not acknowledged after 0.3 s and may still arrive" in answer["detail"]
    assert late.headers["Retry-After"] == "1"
    again = await http.post(cancelled, json=body | {"timeout": "20s"})
    assert (again.status_code, again.json()["id"]) == (201, "cancellation-2")
    for wrong in ({"id": ""}, {"id": "a b"}, {"timeout": "-1s"}, {"timeout": "soon"}):
        problem(await http.post(cancelled, json=body | wrong), 422, "invalid")


async def test_requests_are_counted_by_route_and_not_by_path(http: httpx.AsyncClient) -> None:
    await http.get("/v1/tasks/00000000-0000-4000-8000-000000000000")
    await http.get("/v1/never-heard-of")

    text = (await http.get("/metrics")).text

    assert 'headwater_http_requests_total{code="404",method="GET",route="/v1/tasks/{id}"}' in text
    assert "never-heard-of" not in text
    assert REGISTRY.get_sample_value("headwater_http_request_seconds_count", {"route": "none", "method": "GET"})
    assert (await http.get("/livez")).text == "ok\n"
    assert (await http.get("/readyz")).text == "ok\n"


async def test_a_worker_that_starts_later_knows_what_was_cancelled_before(
    http: httpx.AsyncClient, working: Workers, unique: Callable[[str], str]
) -> None:
    name = unique("later")
    ran = []

    @task(name)
    async def note(payload: str) -> None:
        ran.append(payload)

    cancelled = (await http.post("/v1/tasks", json={"type": name, "payload": "cancelled"})).json()["id"]
    kept = (await http.post("/v1/tasks", json={"type": name, "payload": "kept"})).json()["id"]
    answer = await http.post(f"/v1/tasks/{cancelled}/cancel", json={"reason": "not needed"})
    assert (answer.status_code, answer.json()["state"]) == (202, "PENDING")

    async with working(name, note):
        await until(lambda: http.get(f"/v1/tasks/{kept}"), lambda found: found.json()["state"] == "SUCCEEDED")
        await until(lambda: http.get(f"/v1/tasks/{cancelled}"), lambda found: found.json()["state"] == "CANCELLED")

    assert ran == ["kept"]
    problem(await http.post(f"/v1/tasks/{kept}/cancel"), 409, "conflict")
    problem(await http.post(f"/v1/tasks/{kept}/retry"), 409, "conflict")
    problem(await http.post("/v1/tasks/none-such/cancel"), 404, "task-not-found")
