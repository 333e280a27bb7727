"""Every example of the page about evolving a schema, done: by the gate, and by the codec in both directions."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headwater_ops.cli import main
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.compatibility import breaks
from headwater_schemas.errors import SchemaMismatch
from headwater_schemas.registry import LocalRegistry

PAGE = (Path(__file__).parents[2] / "docs" / "evolution.md").read_text("utf-8")
TOPIC = "orders.placed"
LINE = re.compile(
    r"(?P<direction>BACKWARD|FORWARD) +(?P<gate>passes|refused) +(?P<written>\{.*?\}) "
    r"(?:is read as (?P<read>\{.*\})|(?P<unread>cannot be read))"
)


@dataclass(frozen=True)
class Example:
    """A section of the page: two versions and what becomes of a record in one direction."""

    title: str
    before: dict[str, Any]
    after: dict[str, Any]
    direction: str
    passes: bool
    written: dict[str, Any]
    read: dict[str, Any] | None


def record(fields: str) -> dict[str, Any]:
    return {"type": "record", "name": "Order", "namespace": "shop", "fields": json.loads(fields)}


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = dict(re.findall(r'```\w+ title="([^"]*)"\n(.*?)```', section, re.DOTALL))
        if not blocks:
            continue  # told in words; see the tests below
        for line in blocks["what happens"].splitlines():
            told = LINE.fullmatch(line)
            assert told is not None, line
            found.append(
                Example(
                    title=section.partition("\n")[0],
                    before=record(blocks["before"]),
                    after=record(blocks["after"]),
                    direction=told["direction"],
                    passes=told["gate"] == "passes",
                    written=json.loads(told["written"]),
                    read=None if told["unread"] else json.loads(told["read"]),
                )
            )
    return found


EXAMPLES = examples()
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{each.title}-{each.direction}")


def test_the_page_has_the_changes_that_people_make() -> None:
    titles = {example.title for example in EXAMPLES}
    assert len(titles) == 14
    for change in ("default", "alias", "union", "enum", "optional", "Drop", "type"):
        assert any(change in title for title in titles), change
    assert len(EXAMPLES) == 2 * len(titles), "each tells both directions"


def read_by(reader: dict[str, Any], writer: dict[str, Any], value: dict[str, Any]) -> Any:
    """``value`` written with one version and read by a consumer that has the other, through one registry."""
    registry = LocalRegistry()
    registry.set_compatibility(f"{TOPIC}-value", "NONE")
    spec = TopicSpec(TOPIC, "Order")
    raw = Codec(Catalogue.of(topics=[spec], schemas=[writer]), registry).encoder(TOPIC)(value)
    return Codec(Catalogue.of(topics=[spec], schemas=[reader]), registry).decoder(TOPIC)(raw)


@each_example
def test_the_codec_reads_it_as_the_page_says(example: Example) -> None:
    if example.direction == "BACKWARD":
        reader, writer = example.after, example.before
    else:
        reader, writer = example.before, example.after
    if example.read is None:
        with pytest.raises(SchemaMismatch):
            read_by(reader, writer, example.written)
    else:
        assert read_by(reader, writer, example.written) == example.read


@each_example
def test_the_gate_says_what_the_page_says(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    level = example.direction

    def write(schema: dict[str, Any]) -> None:
        (tmp_path / "contracts" / "Order.avsc").write_text(json.dumps(schema), "utf-8")

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "contracts").mkdir()
    (tmp_path / "topics.toml").write_text(f'[topics."{TOPIC}"]\nschema = "Order"\ncompatibility = "{level}"\n', "utf-8")
    write(example.before)
    git("init", "--quiet", "--initial-branch", "main")
    git("add", "--all")
    git("commit", "--quiet", "--message", "A release")
    write(example.after)

    with pytest.raises(SystemExit) as ended:
        main(["schemas", "check", "--contracts", str(tmp_path), "--against", "HEAD"])
    assert ended.value.code == (0 if example.passes else 1), capsys.readouterr()


# What the page tells in words


def versions(*fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [record(json.dumps([field])) for field in fields]


def test_a_renamed_field_with_a_default_reads_as_that_default_and_no_gate_objects() -> None:
    before, after = versions(
        {"name": "total", "type": "long", "default": 0},
        {"name": "amount", "aliases": ["total"], "type": "long", "default": 0},
    )
    assert breaks(after, [("v1", before)], "FULL") == []
    assert read_by(before, after, {"amount": 7}) == {"total": 0}


def test_a_default_is_written_by_producers_and_filled_in_by_consumers() -> None:
    first = record('[{"name": "id", "type": "string"}]')
    web, shop = (
        record(
            json.dumps([{"name": "id", "type": "string"}, {"name": "channel", "type": "string", "default": channel}])
        )
        for channel in ("web", "shop")
    )
    assert read_by(web, shop, {"id": "a"}) == {"id": "a", "channel": "shop"}, "the producer's"
    assert read_by(web, first, {"id": "a"}) == {"id": "a", "channel": "web"}, "the consumer's"
    assert read_by(shop, first, {"id": "a"}) == {"id": "a", "channel": "shop"}, "and it changes with the consumer"


def test_a_logical_type_that_changes_is_refused_both_ways() -> None:
    millis, micros = versions(
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    )
    found = breaks(micros, [("v1", millis)], "FULL")
    assert {each.direction for each in found} == {"BACKWARD", "FORWARD"}
    assert all("another meaning" in each.why or "take the bytes for" in each.why for each in found)


def test_a_renamed_record_needs_an_alias_and_that_helps_new_readers_only() -> None:
    [before] = versions({"name": "id", "type": "string"})
    renamed = before | {"name": "Purchase"}
    aliased = renamed | {"aliases": ["shop.Order"]}
    assert [each.direction for each in breaks(renamed, [("v1", before)], "FULL")] == ["BACKWARD", "FORWARD"]
    assert [each.direction for each in breaks(aliased, [("v1", before)], "FULL")] == ["FORWARD"]


def test_of_a_grown_union_the_earlier_consumer_still_reads_what_it_knows() -> None:
    before, after = versions(
        {"name": "note", "type": ["null", "string"]}, {"name": "note", "type": ["null", "string", "long"]}
    )
    assert read_by(before, after, {"note": "x"}) == {"note": "x"}
    assert read_by(before, after, {"note": None}) == {"note": None}
