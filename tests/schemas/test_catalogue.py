from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue, TopicSpec, read_contracts
from headwater_schemas.errors import UnknownSchema, UnknownTopic, UsageError
from headwater_schemas.settings import Environment

NOTE: dict[str, Any] = {"type": "record", "name": "Note", "fields": [{"name": "text", "type": "string"}]}


def folder(path: Path, topics: str, *schemas: dict[str, Any]) -> Path:
    (path / "contracts").mkdir(parents=True)
    (path / "topics.toml").write_text(topics, "utf-8")
    for schema in schemas:
        (path / "contracts" / f"{schema['name']}.avsc").write_text(json.dumps(schema), "utf-8")
    return path


def test_a_topic_has_defaults_for_all_but_its_schema(tmp_path: Path) -> None:
    loaded = Catalogue.load(folder(tmp_path, '[topics."notes.taken"]\nschema = "Note"\n', NOTE))

    assert loaded.topics() == (TopicSpec("notes.taken", "Note"),)
    assert loaded.schema("Note") == NOTE


def test_every_option_is_read(tmp_path: Path) -> None:
    topics = """
        [defaults]
        partitions = 6
        replication = 3

        [topics."notes.taken"]
        schema = "Note"
        retention = "forever"
        cleanup = "compact,delete"
        compatibility = "FULL"
        min_insync_replicas = 2

        [topics."notes.read"]
        schema = "Note"
        partitions = 1
        retention = "36h"
    """
    loaded = Catalogue.load(folder(tmp_path, topics, NOTE))

    assert loaded.topic("notes.taken") == TopicSpec(
        "notes.taken", "Note", 6, 3, None, "compact,delete", "FULL", min_insync_replicas=2
    )
    assert loaded.topic("notes.read") == TopicSpec("notes.read", "Note", 1, 3, 36 * 3600.0)


def test_folders_add_up_and_come_from_the_settings(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", '[topics."notes.taken"]\nschema = "Note"\n', NOTE)
    second = folder(tmp_path / "b", '[topics."notes.changes"]\nschema = "ChangeEvent"\n')
    env = Environment({"HEADWATER_CONTRACTS": f"{first}:{second}"})

    loaded = Catalogue.from_env(env)

    assert loaded.topic("notes.taken").schema == "Note"
    assert loaded.topic("notes.changes").schema == "ChangeEvent"


def test_an_unknown_topic_names_the_nearest_one() -> None:
    catalogue = Catalogue.of(topics=[TopicSpec("orders.placed", "Note")], schemas=[NOTE])

    with pytest.raises(UnknownTopic, match=r"did you mean 'orders\.placed'"):
        catalogue.topic("orders.place")


def test_an_unknown_topic_of_an_empty_catalogue_is_an_error_too() -> None:
    with pytest.raises(UnknownTopic, match="not in the catalogue"):
        Catalogue.of(topics=[], schemas=[]).topic("orders")


def test_an_unknown_schema_names_the_nearest_one() -> None:
    with pytest.raises(UnknownSchema, match="did you mean 'Note'"):
        Catalogue.of(topics=[], schemas=[NOTE]).schema("Notes")


def test_a_topic_whose_schema_is_missing_is_refused() -> None:
    with pytest.raises(UnknownSchema, match=r"topic orders: there is no contract 'Order'"):
        Catalogue.of(topics=[TopicSpec("orders", "Order")], schemas=[NOTE])


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        ('[topics."a"]\n', r"line 1.*schema is missing"),
        ('\n\n[topics."a.b"]\nschema = "Note"\npartitons = 3\n', r"line 3.*'partitons'; did you mean 'partitions'"),
        ('[topics.a]\nschema = "Note"\npartitions = 0\n', r"line 1.*partitions = 0 must be a whole number"),
        ('[topics.a]\nschema = "Note"\npartitions = "3"\n', r"partitions = '3' must be a whole number"),
        ('[topics.a]\nschema = "Note"\npartitions = true\n', r"partitions = True must be a whole number"),
        ('[topics.a]\nschema = "Note"\nretention = "soon"\n', r'retention = \'soon\': write e.g. "7d" or "forever"'),
        ('[topics.a]\nschema = "Note"\nretention = 0\n', r"retention = 0\.0 must be positive"),
        ('[topics.a]\nschema = "Note"\nretention = []\n', r"retention = \[\]: write"),
        ('[topics.a]\nschema = "Note"\ncleanup = "compacted"\n', r"cleanup = 'compacted' must be one of delete"),
        ('[topics.a]\nschema = "Note"\ncompatibility = "TOTAL"\n', r"compatibility = 'TOTAL' must be one of NONE"),
        ("[topics.a]\nschema = 3\n", r"schema = 3 must be the name of a contract"),
        ('[topics."a b"]\nschema = "Note"\n', r"'a b' cannot be a topic"),
        ('[topic."a"]\nschema = "Note"\n', r"unknown table \[topic\]"),
        ("topics = 3\n", r"\[topics\] must be a table"),
        ("[topics]\na = 3\n", r"must be a table, not 3"),
        ("[topics\n", r"topics\.toml: not TOML.*line 1"),
        ('[topics.a]\nschema = "Notes"\n', r"topic a: there is no contract 'Notes'; did you mean 'Note'"),
    ],
)
def test_a_wrong_topics_file_says_where_and_what_to_write(tmp_path: Path, topics: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Catalogue.load(folder(tmp_path, topics, NOTE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"Bad\.avsc: not JSON"),
        ('"string"', r"Bad\.avsc: the value of a topic is an Avro record"),
        ('{"type": "record", "name": "Bad"}', r"Bad\.avsc: not an Avro schema"),
        ('{"type": "record", "name": "Bad", "fields": [{"name": "a", "type": "strin"}]}', r"not an Avro schema.*strin"),
        ('{"type": "record", "name": "Good", "fields": []}', r"named 'Good'; name the file Good\.avsc"),
        ('{"type": "record", "name": "Bad", "fields": [{"name": "a", "type": ["null", "Bad"]}]}', "contains itself"),
    ],
)
def test_a_wrong_contract_says_which_and_why(tmp_path: Path, text: str, message: str) -> None:
    made = folder(tmp_path, "")
    (made / "contracts" / "Bad.avsc").write_text(text, "utf-8")

    with pytest.raises(UsageError, match=message):
        read_contracts(made)


def test_a_topic_or_contract_declared_twice_is_refused(tmp_path: Path) -> None:
    topics = '[topics."notes.taken"]\nschema = "Note"\n'
    first, second = folder(tmp_path / "a", topics, NOTE), folder(tmp_path / "b", topics)

    with pytest.raises(UsageError, match=r"topic 'notes\.taken' is declared twice, again in .*/b"):
        Catalogue.load(first, second)
    with pytest.raises(UsageError, match="schema 'Note' is declared twice"):
        Catalogue.of(topics=[], schemas=[NOTE, NOTE])


def test_a_later_folder_changes_the_options_that_it_names_of_a_shipped_topic(tmp_path: Path) -> None:
    topics = """
        [defaults]
        partitions = 6
        retention = "1d"

        [topics."tasks"]
        partitions = 24
        min_insync_replicas = 2

        [topics."headwater.audit"]
        schema = "OperatorAction"
        retention = "forever"
    """
    shipped = Catalogue.load(PACKAGE_FOLDER)

    loaded = Catalogue.load(PACKAGE_FOLDER, folder(tmp_path, topics))

    assert loaded.topic("tasks") == replace(shipped.topic("tasks"), partitions=24, min_insync_replicas=2)
    assert loaded.topic("headwater.audit") == replace(shipped.topic("headwater.audit"), retention=None)
    changed = {"tasks", "headwater.audit"}
    assert {spec for spec in shipped.topics() if spec.name not in changed} <= set(loaded.topics())


def test_a_shipped_topic_keeps_its_schema_and_the_error_says_what_may_change(tmp_path: Path) -> None:
    made = folder(tmp_path, '[topics."tasks"]\nschema = "Note"\npartitions = 24\n', NOTE)

    with pytest.raises(UsageError, match=r"line 1.*carries TaskSubmitted, not 'Note': change its partitions,"):
        Catalogue.load(PACKAGE_FOLDER, made)


def test_a_wrong_change_of_a_shipped_topic_says_where_and_what_to_write(tmp_path: Path) -> None:
    wrong = {"partitons = 2": "did you mean 'partitions'", "partitions = 0": "must be a whole number"}
    for number, (option, message) in enumerate(wrong.items()):
        made = folder(tmp_path / f"{number}", f'[topics."tasks"]\n{option}\n')
        with pytest.raises(UsageError, match=f"line 1.*{message}"):
            Catalogue.load(PACKAGE_FOLDER, made)


def test_two_folders_that_change_one_shipped_topic_are_refused(tmp_path: Path) -> None:
    first, second = (folder(tmp_path / name, '[topics."tasks"]\nschema = "TaskSubmitted"\n') for name in "ab")

    with pytest.raises(UsageError, match=r"topic 'tasks' is declared twice, again in .*/b"):
        Catalogue.load(PACKAGE_FOLDER, first, second)


def test_a_folder_without_a_topics_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"topics\.toml cannot be read"):
        Catalogue.load(tmp_path)


def test_dead_letters_keep_the_partitions() -> None:
    spec = TopicSpec("flight.changes", "ChangeEvent", partitions=12, cleanup="compact")

    dead = spec.dead_letter("board")

    assert (dead.name, dead.partitions, dead.cleanup) == ("flight.changes.board.dlt", 12, "delete")


def test_the_shipped_catalogue_loads() -> None:
    shipped = Catalogue.load()

    assert shipped.schema("ChangeEvent")["namespace"] == "headwater"
    assert {spec.schema for spec in shipped.topics()} <= set(shipped.schemas())


def test_what_ships_is_what_headwater_itself_needs_and_leaves_the_other_names_to_its_users(tmp_path: Path) -> None:
    assert {spec.name for spec in Catalogue.load(PACKAGE_FOLDER).topics()} == {
        *("tasks", "task.control", "task.changes"),
        "headwater.audit",
    }

    flight = NOTE | {"name": "Flight"}
    loaded = Catalogue.load(
        PACKAGE_FOLDER, folder(tmp_path, '[topics."flights.departed"]\nschema = "Flight"\n', flight)
    )

    assert loaded.schema("Flight") == flight


def test_the_demo_brings_its_contracts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONTRACTS", "/nowhere")

    assert demo_catalogue().topic("flights.departed").schema == "FlightDeparted"
    assert {spec.schema for spec in demo_catalogue().topics()} <= set(demo_catalogue().schemas())
