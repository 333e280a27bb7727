"""``headwater dlq`` as an operator types it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from headwater_ops import cli
from headwater_ops.stack import Endpoints
from headwater_streams import Retry
from streams.orders import ORDER
from streams.running import until
from streams.shop import Shop

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def shop(
    endpoints: Endpoints, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """A shop with two letters of one key: a failed order and bytes that are none. The command knows its topic."""
    shop = Shop(topic_name, endpoints)
    shop.bad = {1}
    async with shop.open(retry=Retry()):
        shop.send(1)
        await shop.dies(1)
        shop.send_bytes(b"\xff\x00")
        await shop.dies(2)
    shop.bad.clear()
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "Order.avsc").write_text(json.dumps(ORDER))
    (tmp_path / "topics.toml").write_text(f'[topics."{topic_name}"]\nschema = "Order"\n')
    for name, value in (endpoints.settings() | {"HEADWATER_CONTRACTS": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    yield shop
    shop.registry.close()


@pytest.fixture
def dlq(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a verb; gives the exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["dlq", *arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out + captured.err

    return run


Dlq = Callable[..., tuple[int, str]]


def parsed(answer: tuple[int, str]) -> Any:
    code, out = answer
    assert code == 0, out
    return json.loads(out)


def test_list_shows_each_kind_with_counts_and_a_sample(shop: Shop, dlq: Dlq) -> None:
    kinds = parsed(dlq("list", shop.dead, "--json"))
    _, text = dlq("list", shop.dead)

    assert {(kind["reason"], kind["count"], kind["open"]) for kind in kinds} == {("handler", 1, 1), ("decode", 1, 1)}
    assert "charge: handler: ValueError: order 1 has no price" in text
    assert f"the newest {shop.dead}/0/0" in text


def test_list_letters_shows_each_one(shop: Shop, dlq: Dlq) -> None:
    code, out = dlq("list", shop.dead, "--letters", "--reason", "handler", "--json")
    (row,) = [json.loads(line) for line in out.splitlines()]

    assert code == 0
    assert (row["id"], row["open"], row["key"]) == (f"{shop.dead}/0/0", True, "k")


def test_show_has_value_origin_and_stack(shop: Shop, dlq: Dlq) -> None:
    letter = parsed(dlq("show", f"{shop.dead}/0/0", "--json"))
    _, text = dlq("show", f"{shop.dead}/0/1")

    assert letter["value"] == {"key": "k", "number": 1}
    assert letter["origin"]["topic"] == shop.topic
    assert "ValueError: order 1 has no price" in letter["stack"]
    assert '"hex":"ff00"' in text


def test_redrive_needs_to_be_told_which_letters(dlq: Dlq, shop: Shop) -> None:
    code, out = dlq("redrive")

    assert code == 2
    assert "--all" in out


async def test_redrive_sends_the_chosen_ones_back_and_says_so(shop: Shop, dlq: Dlq) -> None:
    planned = parsed(dlq("redrive", shop.dead, "--reason", "handler", "--dry-run", "--json"))
    code, text = dlq("redrive", shop.dead, "--reason", "handler", "--rate", "10/s", "--note", "prices are back")
    _, again = dlq("redrive", shop.dead, "--reason", "handler")
    async with shop.open(retry=Retry()):
        await until(lambda: shop.charged == [1])

    assert planned["redriven"] == [{"topic": shop.dead, "partition": 0, "offset": 0}]
    assert code == 0
    assert "1 of 1 letters sent back" in text
    assert "1 were sent back before" in again


def test_a_canary_that_stops_the_redrive_is_an_exit_code(shop: Shop, dlq: Dlq) -> None:
    code, text = dlq("redrive", shop.dead, "--canary", "1", "--canary-timeout", "1s")

    assert code == 1
    assert "stopped: the outcome of 1 canaries is not known yet" in text


async def test_edit_takes_json_or_opens_an_editor(
    shop: Shop, dlq: Dlq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i s/1/41/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    code, _ = dlq("edit", f"{shop.dead}/0/0")
    value = tmp_path / "value.json"
    value.write_text('{"key": "k", "number": 42}')
    from_file, _ = dlq("edit", f"{shop.dead}/0/1", "--value", f"@{value}")
    async with shop.open(retry=Retry()):
        await until(lambda: shop.charged == [41, 42])

    assert (code, from_file) == (0, 0)


async def test_release_gives_up_a_letter_that_holds_its_key(shop: Shop, dlq: Dlq) -> None:
    shop.bad = {5}
    async with shop.open(hold=True):
        shop.send(5, 6, key="held")
        await shop.dies(3)
    _, listed = dlq("list", shop.dead, "--letters")
    code, text = dlq("release", f"{shop.dead}/0/2", "--note", "the customer is gone")
    refused, why = dlq("release", f"{shop.dead}/0/0")
    async with shop.open(hold=True):
        await until(lambda: shop.charged == [6])

    assert "holds its key" in listed
    assert (code, refused) == (0, 2)
    assert "its key goes on" in text
    assert "holds no key" in why


@pytest.mark.parametrize(
    ("value", "why"),
    [("{", "not JSON"), ('{"key": "k"}', "Order.number"), ('{"key": "k", "number": 1, "x": 2}', "Order.x")],
)
def test_an_edit_that_is_wrong_says_where(shop: Shop, dlq: Dlq, value: str, why: str) -> None:
    code, text = dlq("edit", f"{shop.dead}/0/0", "--value", value)

    assert code == 2
    assert why in text


def test_an_editor_that_changes_nothing_sends_nothing(shop: Shop, dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "true")
    code, text = dlq("edit", f"{shop.dead}/0/0")

    assert code == 1
    assert "nothing changed, nothing sent" in text
    assert parsed(dlq("list", shop.dead, "--json"))[0]["open"] == 1


def test_purge_asks_and_deletes_only_when_it_is_told_to(shop: Shop, dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    _, planned = dlq("purge", shop.dead, "--all", "--dry-run")
    monkeypatch.setattr("typer.confirm", _refused)
    refused, _ = dlq("purge", shop.dead, "--all")
    before = parsed(dlq("list", shop.dead, "--json"))
    code, text = dlq("purge", shop.dead, "--all", "--yes")
    after = parsed(dlq("list", shop.dead, "--json"))

    assert "2 letters would be deleted, 2 of them open" in planned
    assert refused == 1
    assert len(before) == 2
    assert (code, text) == (0, "2 letters deleted, 2 of them open\n")
    assert after == []


def _refused(question: str, *, abort: bool) -> None:
    import typer

    assert abort
    assert "2 of them open" in question
    raise typer.Abort
