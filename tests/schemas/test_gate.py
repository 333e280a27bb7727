"""The gate on real git repositories, and against a registry."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.errors import RegistryUnavailable, UsageError
from headwater_schemas.gate import against_registry, against_releases
from headwater_schemas.history import default_revision, load_folder, releases
from headwater_schemas.registration import register_all
from headwater_schemas.registry import LocalRegistry

ID = {"name": "id", "type": "string"}
PLACED = {"name": "placed", "type": "long"}
OPTIONAL = {"name": "note", "type": ["null", "string"], "default": None}
REQUIRED = {"name": "total", "type": "int"}


class Repository:
    """A git repository with a contract folder, ``shop/contracts``, of one topic, ``orders.placed``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "shop"
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, *fields: dict[str, Any], level: str = "BACKWARD", extra: str = "") -> None:
        contracts = self.folder / "contracts"
        contracts.mkdir(parents=True, exist_ok=True)
        order = {"type": "record", "name": "Order", "namespace": "shop", "fields": list(fields)}
        (contracts / "Order.avsc").write_text(json.dumps(order), "utf-8")
        topics = f'[topics."orders.placed"]\nschema = "Order"\ncompatibility = "{level}"\n{extra}'
        (self.folder / "topics.toml").write_text(topics, "utf-8")

    def commit(self, tag: str | None = None) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A step")
        if tag is not None:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def verdict(self, revision: str = "HEAD") -> list[tuple[str, str]]:
        """What breaks: (earlier version, field)."""
        verdicts = against_releases(load_folder(self.folder), releases(self.folder, revision))
        (verdict,) = [verdict for verdict in verdicts if verdict.topic == "orders.placed"]
        return [(found.against, found.field) for found in verdict.breaks]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_an_edit_is_compared_with_the_last_commit(repository: Repository) -> None:
    repository.write(ID)
    repository.commit()

    repository.write(ID, REQUIRED)
    assert repository.verdict() == [("HEAD", "total")]

    repository.write(ID, OPTIONAL)
    assert repository.verdict() == []


def test_a_branch_is_compared_with_where_it_left_main(repository: Repository) -> None:
    repository.write(ID)
    base = repository.commit()
    repository.git("checkout", "--quiet", "-b", "work")
    repository.write(ID, REQUIRED)
    repository.commit()
    repository.git("checkout", "--quiet", "main")
    repository.write(ID, PLACED)
    repository.commit()
    repository.git("checkout", "--quiet", "work")

    assert default_revision(repository.folder) == base
    assert repository.verdict(default_revision(repository.folder)) == [(base[:12], "total")]


def test_a_repository_without_a_main_line_is_compared_with_its_head(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "trunk")
    repository.write(ID)
    repository.commit()

    assert default_revision(repository.folder) == "HEAD"


def test_a_transitive_level_looks_at_every_release_but_not_at_drafts(repository: Repository) -> None:
    level = "BACKWARD_TRANSITIVE"
    repository.write(ID, PLACED, level=level)
    repository.commit("v1.0")
    repository.write(ID, {"name": "draft", "type": "string"}, level=level)
    repository.commit()
    repository.write(ID, level=level)
    repository.commit("v1.1")

    repository.write(ID, {"name": "placed", "type": "string", "default": ""}, level=level)
    assert repository.verdict() == [("v1.0", "placed")]

    repository.write(ID, {"name": "draft", "type": "int", "default": 0}, level=level)
    assert repository.verdict() == []


def test_other_tags_are_no_releases(repository: Repository) -> None:
    repository.write(ID, PLACED)
    repository.commit("nightly-1")

    assert [release.label for release in releases(repository.folder, "HEAD")] == ["HEAD"]
    assert [release.label for release in releases(repository.folder, "HEAD", "nightly-*")] == ["nightly-1", "HEAD"]


def test_a_topic_may_move_to_another_contract_that_reads_the_old_one(repository: Repository) -> None:
    repository.write(ID)
    repository.commit()
    order = {"type": "record", "name": "Placed", "aliases": ["shop.Order"], "fields": [ID, OPTIONAL]}
    (repository.folder / "contracts" / "Placed.avsc").write_text(json.dumps(order), "utf-8")
    topics = '[topics."orders.placed"]\nschema = "Placed"\ncompatibility = "BACKWARD"\n'
    (repository.folder / "topics.toml").write_text(topics, "utf-8")

    assert repository.verdict() == []


def test_new_and_vanished_topics_break_nothing(repository: Repository) -> None:
    repository.write(ID, extra='[topics."orders.lost"]\nschema = "Order"\n')
    repository.commit()
    repository.write(ID, extra='[topics."orders.paid"]\nschema = "Order"\n')

    verdicts = against_releases(load_folder(repository.folder), releases(repository.folder, "HEAD"))

    compared = {verdict.topic: verdict.compared for verdict in verdicts if verdict.topic.startswith("orders")}
    assert compared == {"orders.placed": ("HEAD",), "orders.paid": ()}


def test_before_the_first_contract_there_is_nothing_to_break(repository: Repository) -> None:
    repository.commit()
    repository.write(ID)

    assert releases(repository.folder, "HEAD") == []
    assert repository.verdict() == []


def test_a_users_folder_may_use_the_shipped_contracts(repository: Repository) -> None:
    repository.write(ID, extra='[topics."orders.changes"]\nschema = "ChangeEvent"\n')
    repository.commit()

    assert repository.verdict() == []


def test_an_unknown_revision_is_a_usage_error(repository: Repository) -> None:
    repository.write(ID)
    repository.commit()

    with pytest.raises(UsageError, match="git has no revision 'v9'"):
        releases(repository.folder, "v9")


def test_an_option_is_not_taken_for_a_revision(repository: Repository) -> None:
    repository.write(ID)
    repository.commit()

    with pytest.raises(UsageError, match="git has no revision"):
        releases(repository.folder, "--output=/tmp/headwater-gate-test")
    assert not Path("/tmp/headwater-gate-test").exists()


def test_contracts_that_were_wrong_then_are_named(repository: Repository) -> None:
    repository.write(ID)
    (repository.folder / "topics.toml").write_text("[topics.a]\n", "utf-8")
    repository.commit("v0.1")
    repository.write(ID)

    with pytest.raises(UsageError, match=r"the contracts of v0\.1 cannot be read: v0\.1:shop/topics\.toml, line 1"):
        releases(repository.folder, "HEAD")


def test_a_folder_outside_git_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a git repository"):
        releases(tmp_path, "HEAD")


def orders(*fields: dict[str, Any]) -> Catalogue:
    schema = {"type": "record", "name": "Order", "namespace": "shop", "fields": list(fields)}
    return Catalogue.of(topics=[TopicSpec("orders.placed", "Order", compatibility="FULL")], schemas=[schema])


def test_a_registry_tells_the_versions_too() -> None:
    registry = LocalRegistry()
    (new,) = against_registry(orders(ID), registry)
    assert (new.compared, new.breaks) == ((), ())

    register_all(orders(ID), registry)
    (verdict,) = against_registry(orders(ID, REQUIRED), registry)

    assert verdict.compared == ("registered version 1",)
    assert [(found.direction, found.field) for found in verdict.breaks] == [("BACKWARD", "total")]


def test_a_registry_that_is_down_gives_no_verdict() -> None:
    registry = LocalRegistry()
    registry.down = True

    with pytest.raises(RegistryUnavailable):
        against_registry(orders(ID), registry)
