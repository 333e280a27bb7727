"""``headwater schemas`` and ``headwater topics``, as people call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater_ops.cli import main
from headwater_schemas.catalogue import Catalogue

NOTE: dict[str, Any] = {"type": "record", "name": "Note", "fields": [{"name": "text", "type": "string"}]}


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def headwater(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; gives exit code and output."""

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path, topic_name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A contract folder of one topic, named in the settings."""
    made = tmp_path / "shop"
    (made / "contracts").mkdir(parents=True)
    (made / "contracts" / "Note.avsc").write_text(json.dumps(NOTE), "utf-8")
    (made / "topics.toml").write_text(f'[topics."{topic_name}"]\nschema = "Note"\npartitions = 2\n', "utf-8")
    monkeypatch.setenv("HEADWATER_CONTRACTS", str(made))
    return made


def rewrite(folder: Path, *fields: dict[str, Any]) -> None:
    (folder / "contracts" / "Note.avsc").write_text(json.dumps(NOTE | {"fields": list(fields)}), "utf-8")


def test_topics_list_shows_every_declared_topic(headwater: Run, folder: Path, topic_name: str) -> None:
    result = headwater("topics", "list", "--json")

    rows = {row["name"]: row for row in result.json()}
    assert set(rows) == {spec.name for spec in Catalogue.from_env().topics()}
    assert (rows[topic_name]["schema"], rows[topic_name]["partitions"]) == ("Note", 2)
    assert "newest per key" in headwater("topics", "list").out


@pytest.fixture
def at_kafka(bootstrap: str, registry_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("HEADWATER_REGISTRY_URL", registry_url)


@pytest.mark.usefixtures("at_kafka", "folder")
def test_topics_apply_makes_what_the_dry_run_printed(headwater: Run, topic_name: str) -> None:
    def of_ours(result: Result) -> list[dict[str, Any]]:
        return [row for row in result.json() if row["topic"] == topic_name]

    dry = headwater("topics", "apply", "--dry-run", "--json")
    assert dry.code == 1
    assert [(row["option"], row["done"]) for row in of_ours(dry)] == [("topic", "would be created")]

    applied = headwater("topics", "apply", "--register", "--json")
    assert [(row["option"], row["done"]) for row in of_ours(applied)] == [("topic", "created")]

    again = headwater("topics", "apply", "--json")
    assert of_ours(again) == []

    registered = {row["topic"]: row for row in headwater("schemas", "register", "--json").json()}
    assert registered[topic_name]["subject"] == f"{topic_name}-value"
    assert registered[topic_name]["level"] == "BACKWARD_TRANSITIVE"


def test_topics_apply_without_kafka_is_one_line_and_exit_code_1(
    headwater: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA_BOOTSTRAP", "127.0.0.1:9")

    result = headwater("topics", "apply", "--timeout", "0.5")

    assert result.code == 1
    assert "headwater: cannot list topics" in result.err


@pytest.mark.usefixtures("at_kafka")
def test_schemas_check_compares_with_the_registry(headwater: Run, folder: Path, topic_name: str) -> None:
    headwater("schemas", "register")

    assert headwater("schemas", "check", "--registry", "--contracts", str(folder)).code == 0

    rewrite(folder, {"name": "text", "type": "int"})
    broken = headwater("schemas", "check", "--registry", "--contracts", str(folder))
    assert broken.code == 1
    assert f"{topic_name}: text: it is now int, but the topic holds string" in broken.out
    assert "breaks BACKWARD_TRANSITIVE (backward, against registered version 1)" in broken.out
    assert "instead: add a new field" in broken.out


def test_schemas_check_compares_with_git(headwater: Run, folder: Path, topic_name: str) -> None:
    from schemas.test_gate import Repository

    repository = Repository(folder.parent)
    repository.commit()
    arguments = ("schemas", "check", "--contracts", str(folder), "--against", "HEAD", "--json")
    assert headwater(*arguments).code == 0

    rewrite(folder, *NOTE["fields"], {"name": "more", "type": "int"})
    result = headwater(*arguments)

    assert result.code == 1
    (broken,) = [row for row in result.json() if row["breaks"]]
    assert (broken["topic"], broken["breaks"][0]["field"], broken["compared"]) == (topic_name, "more", ["HEAD"])


def test_schemas_check_wants_git_or_the_registry_not_both(headwater: Run) -> None:
    result = headwater("schemas", "check", "--registry", "--against", "HEAD")

    assert result.code == 2
    assert "exclude each other" in result.err


def test_the_shipped_contracts_pass_the_gate(headwater: Run) -> None:
    result = headwater("schemas", "check", "--against", "HEAD")

    assert result.code == 0, result.out


def test_schemas_generate_writes_once_and_sees_drift(headwater: Run, folder: Path) -> None:
    arguments = ("schemas", "generate", "--contracts", str(folder))
    assert headwater(*arguments, "--check").code == 1
    assert not (folder / "events.py").exists()

    assert "wrote" in headwater(*arguments).out
    assert "class Note(" in (folder / "events.py").read_text("utf-8")
    assert "up to date" in headwater(*arguments, "--check").out

    rewrite(folder, {"name": "text", "type": "int"})
    stale = headwater(*arguments, "--check")
    assert stale.code == 1
    assert "run headwater schemas generate" in stale.err


def test_schemas_generate_writes_the_structs_of_the_folders_in_the_settings(
    headwater: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics_only = tmp_path / "topics-only"
    topics_only.mkdir()
    (topics_only / "topics.toml").touch()
    monkeypatch.setenv("HEADWATER_CONTRACTS", f"{folder}:{topics_only}")

    assert headwater("schemas", "generate", "--check").code == 1
    assert headwater("schemas", "generate").code == 0

    assert "class Note(" in (folder / "events.py").read_text("utf-8")
    assert not (topics_only / "events.py").exists()


def test_schemas_generate_of_two_folders_writes_no_single_module(headwater: Run, folder: Path, tmp_path: Path) -> None:
    folders = ("--contracts", str(folder), "--contracts", str(folder))
    result = headwater("schemas", "generate", *folders, "--output", str(tmp_path / "events.py"))

    assert result.code == 2
    assert "--output names one module and 2 folders are given" in result.err


def test_schemas_generate_without_contracts_is_wrong_usage(headwater: Run, tmp_path: Path) -> None:
    result = headwater("schemas", "generate", "--contracts", str(tmp_path))

    assert result.code == 2
    assert "has no contracts" in result.err
