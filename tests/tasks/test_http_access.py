"""Who may call: keys, scopes, and this machine alone when there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from headwater_schemas.errors import NotPermitted, Overloaded, SettingError, UsageError
from headwater_schemas.settings import Environment
from headwater_tasks.http import problems, serve
from headwater_tasks.http.access import requires
from headwater_tasks.http.keys import ApiKeys, hash_of, new_key


def guarded(keys: ApiKeys | None) -> FastAPI:
    """Two routes, one scope each."""
    app = FastAPI()
    app.state.keys = keys
    problems.install(app)
    router = APIRouter()

    @router.get("/tasks", dependencies=[requires("tasks:read")])
    async def read() -> str:
        return "read"

    @router.get("/emit", dependencies=[requires("events:write:orders.placed")])
    async def emit() -> str:
        return "emitted"

    @router.get("/fails")
    async def fails() -> None:
        raise RuntimeError("the password is hunter2")

    @router.get("/misconfigured")
    async def misconfigured() -> None:
        raise NotPermitted("Redis refuses the user headwater at 10.0.0.7")

    @router.get("/busy")
    async def busy() -> None:
        raise Overloaded("the queue is full")

    app.include_router(router)
    return app


async def call(app: FastAPI, path: str, *, host: str = "127.0.0.1", peer: str = "127.0.0.1", **options: Any) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return await client.get(path, **options)


def keys_of(tmp_path: Path, **scopes: list[str]) -> tuple[ApiKeys, dict[str, dict[str, str]]]:
    """A key file with these keys, and the headers that send them."""
    made = {name: new_key(name, granted) for name, granted in scopes.items()}
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(table for _, table in made.values()))
    headers = {name: {"Authorization": f"Bearer {token}"} for name, (token, _) in made.items()}
    assert not any(token in path.read_text() for token, _ in made.values())
    return ApiKeys.load(path), headers


async def test_a_key_opens_what_its_scopes_say(tmp_path: Path) -> None:
    keys, headers = keys_of(
        tmp_path, reader=["tasks:read"], orders=["events:write:orders.placed"], emitter=["events:write"]
    )
    app = guarded(keys)

    async def status(name: str, path: str) -> int:
        return int((await call(app, path, headers=headers[name])).status_code)

    assert [await status(name, "/tasks") for name in ("reader", "orders", "emitter")] == [200, 403, 403]
    assert [await status(name, "/emit") for name in ("reader", "orders", "emitter")] == [403, 200, 200]


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Bearer ", "Basic aGk6aG8=", "Bearer \u00fc"])
async def test_without_a_valid_key_the_answer_says_how_to_send_one(tmp_path: Path, authorization: str | None) -> None:
    keys, _ = keys_of(tmp_path, reader=["tasks:read"])
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}

    answer = await call(guarded(keys), "/tasks", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "urn:headwater:problem:unauthorized"


@pytest.mark.parametrize(
    ("host", "peer", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("localhost", "127.0.0.1", 200),
        ("[::1]", "::1", 200),
        ("127.0.0.1", "10.0.0.7", 403),
        ("evil.example", "127.0.0.1", 403),
        ("127.0.0.1.evil.example", "127.0.0.1", 403),
    ],
)
async def test_without_keys_only_this_machine_may_call_and_only_as_itself(host: str, peer: str, status: int) -> None:
    """A page whose name was rebound to 127.0.0.1 comes from this machine, but names itself in the Host header."""
    assert (await call(guarded(None), "/tasks", host=host, peer=peer)).status_code == status


async def test_an_unexpected_error_and_a_set_up_of_ours_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/fails", "/misconfigured"):
        answer = await call(guarded(None), path)
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "hunter2" not in answer.text
        assert "10.0.0.7" not in answer.text
        assert "Traceback" not in answer.text
    assert "hunter2" in caplog.text


async def test_what_is_overloaded_says_when_to_come_back() -> None:
    answer = await call(guarded(None), "/busy")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold [keys.<name>] tables"),
        ("[keys]", "must hold [keys.<name>] tables"),
        ("keys = 3", "must hold [keys.<name>] tables"),
        ("[key.a]", "must hold [keys.<name>] tables"),
        ("[keys.a]\nsha256 = 'hw_secret'\nscopes = ['tasks:read']", "64 hex digits, not the key itself"),
        (f"[keys.a]\nsha256 = '{hash_of('x')}'\nscopes = []", "scopes must be a list"),
        (f"[keys.a]\nsha256 = '{hash_of('x')}'\nscopes = ['task:read']", "there is no scope 'task:read'"),
        (f"[keys.a]\nsha256 = '{hash_of('x')}'", "must have sha256 and scopes"),
        ("[keys.a", "is not TOML"),
        (
            "".join(f"[keys.{name}]\nsha256 = '{hash_of('x')}'\nscopes = ['tasks:read']\n" for name in "ab"),
            "b and a are the same key",
        ),
    ],
)
def test_a_wrong_key_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)

    with pytest.raises(SettingError) as refused:
        ApiKeys.load(path)

    assert said in str(refused.value)
    assert "hw_secret" not in str(refused.value)


@pytest.mark.parametrize("scope", ["dead-letters:read", "dead-letters:write", "lag:read"])
def test_a_scope_that_no_route_asks_for_is_refused_and_the_others_are_named(tmp_path: Path, scope: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f"[keys.operator]\nsha256 = '{hash_of('x')}'\nscopes = ['tasks:read', '{scope}']")

    with pytest.raises(SettingError) as refused:
        ApiKeys.load(path)

    assert "[keys.operator]" in str(refused.value)
    assert f"no scope '{scope}'" in str(refused.value)
    assert "tasks:read, tasks:write, events:write, cache:read, cache:values, cache:write or" in str(refused.value)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        ApiKeys.load(tmp_path / "none.toml")


def test_a_key_must_have_a_name_that_toml_takes() -> None:
    with pytest.raises(UsageError, match="cannot name a key"):
        new_key("a b", ["tasks:read"])


def test_without_keys_the_api_serves_this_machine_alone() -> None:
    with pytest.raises(SettingError, match="which others can reach"):
        serve(Environment({"HEADWATER_API_HTTP": "0.0.0.0:8080"}))
    with pytest.raises(SettingError, match="must be host:port"):
        serve(Environment({"HEADWATER_API_HTTP": "8080"}))
