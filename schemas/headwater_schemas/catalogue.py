"""The catalogue: every topic, declared once, with the schema of its values and how Kafka keeps it.

A contract folder holds ``topics.toml`` and ``contracts/<Record>.avsc``. ``topics.toml``::

    [defaults]                      # optional; for the topics of this file
    partitions = 6

    [topics."orders.placed"]
    schema = "OrderPlaced"          # contracts/OrderPlaced.avsc; the one key that has no default
    partitions = 6                  # default 4
    replication = 3                 # default: the broker's own default
    min_insync_replicas = 2         # default: the broker's own default
    retention = "7d"                # default; "forever" keeps everything
    cleanup = "delete"              # default; or "compact", "compact,delete"
    compatibility = "FULL"          # default BACKWARD_TRANSITIVE

A later folder may change how a topic that comes with Headwater is kept: all that a table can name but the schema::

    [topics."tasks"]
    partitions = 24

A contract stands alone: it defines every type that it uses. What is in the file is what gets registered.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from headwater_schemas.durations import format_duration, seconds
from headwater_schemas.errors import UnknownSchema, UnknownTopic, UsageError
from headwater_schemas.settings import Environment
from headwater_schemas.soundness import misread_default, unsound
from headwater_schemas.wire import check_topic_name, dead_letter_topic

__all__ = [
    "COMPATIBILITIES",
    "PACKAGE_FOLDER",
    "Catalogue",
    "Cleanup",
    "Compatibility",
    "Schema",
    "TopicSpec",
    "read_contracts",
]

Schema = dict[str, Any]
"""An Avro record schema as parsed JSON."""

Cleanup = Literal["delete", "compact", "compact,delete"]
Compatibility = Literal[
    "NONE",
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
]
COMPATIBILITIES: Final[tuple[Compatibility, ...]] = get_args(Compatibility)

PACKAGE_FOLDER: Final = Path(__file__).parent
"""The contract folder that comes with Headwater."""

_WEEK = 7 * 86_400.0
_FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic: what it carries and how Kafka keeps it. ``None`` leaves a choice to the broker's defaults.

    Args:
        name: the topic.
        schema: the record name of its values' schema.
        partitions: how many; growing it later moves keys and breaks their order.
        replication: copies of each partition, or ``None``.
        retention: seconds that a record is kept, or ``None`` for ever. Ignored by Kafka on a purely compacted topic.
        cleanup: what Kafka does with old records.
        compatibility: which schema changes are let through.
        min_insync_replicas: copies that must hold a record before it counts as acknowledged, or ``None``.

    Raises:
        UsageError: a value is not one that Kafka or the registry takes.
    """

    name: str
    schema: str
    partitions: int = 4
    replication: int | None = None
    retention: float | None = _WEEK
    cleanup: Cleanup = "delete"
    compatibility: Compatibility = "BACKWARD_TRANSITIVE"
    min_insync_replicas: int | None = None

    def __post_init__(self) -> None:
        check_topic_name(self.name)
        if not isinstance(self.schema, str) or not self.schema:
            raise UsageError(f"topic {self.name}: schema = {self.schema!r} must be the name of a contract")
        self._check_count("partitions", self.partitions)
        self._check_count("replication", self.replication)
        self._check_count("min_insync_replicas", self.min_insync_replicas)
        self._check_choice("cleanup", self.cleanup, get_args(Cleanup))
        self._check_choice("compatibility", self.compatibility, COMPATIBILITIES)
        if self.retention is not None and self.retention < 0.001:
            raise UsageError(f"topic {self.name}: retention = {self.retention!r} must be positive seconds, or None")

    def _check_count(self, option: str, value: int | None) -> None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"topic {self.name}: {option} = {value!r} must be a whole number of at least 1")

    def _check_choice(self, option: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise UsageError(f"topic {self.name}: {option} = {value!r} must be one of {', '.join(choices)}")

    def dead_letter(self, group: str) -> TopicSpec:
        """The dead-letter topic of ``group``; kept for four weeks, so that there is time to repair and redrive.

        Raises:
            UsageError: not a name that Kafka takes.
        """
        return replace(self, name=dead_letter_topic(self.name, group), retention=_FOUR_WEEKS, cleanup="delete")


_FOUR_WEEKS = 4 * _WEEK
_OPTIONS = tuple(field.name for field in fields(TopicSpec) if field.name != "name")


class Catalogue:
    """The topics and schemas of this deployment; read once, then unchanging and safe to share between threads."""

    __slots__ = ("_schemas", "_topics")

    def __init__(self, topics: Mapping[str, TopicSpec], schemas: Mapping[str, Schema]) -> None:
        self._topics = dict(topics)
        self._schemas = dict(schemas)
        for spec in self._topics.values():
            if spec.schema not in self._schemas:
                raise UnknownSchema(
                    f"topic {spec.name}: there is no contract {spec.schema!r}; {_nearest(spec.schema, self._schemas)}"
                )

    @classmethod
    def of(cls, *, topics: Iterable[TopicSpec], schemas: Iterable[Mapping[str, Any]]) -> Catalogue:
        """A catalogue in memory, for tests and tools. Each schema is known by its record name.

        Raises:
            UsageError: a name is given twice, or a schema is not a valid record schema.
            UnknownSchema: a topic names a schema that is not among ``schemas``.
        """
        by_name: dict[str, Schema] = {}
        for schema in schemas:
            checked = _checked_schema(dict(schema), "a schema")
            _add(by_name, str(checked["name"]).rpartition(".")[2], checked, "schema")
        specs: dict[str, TopicSpec] = {}
        for spec in topics:
            _add(specs, spec.name, spec, "topic")
        return cls(specs, by_name)

    @classmethod
    def load(cls, *folders: Path | str) -> Catalogue:
        """The catalogue of these contract folders; without any, as ``from_env``. Reads files, so it blocks shortly.

        Folders after ``PACKAGE_FOLDER`` may change the options of its topics, each topic once.

        Raises:
            UsageError: a file is missing or wrong, or a name is given twice; the message names the file, the topic and
                what to write.
            UnknownSchema: a topic names a contract that no folder has.
        """
        if not folders:
            return cls.from_env()
        schemas: dict[str, Schema] = {}
        topics: dict[str, TopicSpec] = {}
        changeable: set[str] = set()
        for folder in map(Path, folders):
            for name, schema in read_contracts(folder).items():
                _add(schemas, name, schema, "contract", folder)
            for table in _read_topics(folder / "topics.toml"):
                if table.name in changeable:
                    topics[table.name] = table.changing(topics[table.name])
                    changeable.remove(table.name)
                else:
                    _add(topics, table.name, table.spec(), "topic", folder)
            if folder.resolve() == PACKAGE_FOLDER.resolve():
                changeable.update(topics)
        return cls(topics, schemas)

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Catalogue:
        """The shipped contracts and those of the folders in ``HEADWATER_CONTRACTS``, which may change shipped topics.

        Raises:
            UsageError: as ``load``.
        """
        env = env or Environment()
        return cls.load(PACKAGE_FOLDER, *env.paths("HEADWATER_CONTRACTS"))

    def topic(self, name: str) -> TopicSpec:
        """The topic of this name.

        Raises:
            UnknownTopic: it is not declared; the message names the nearest one.
        """
        try:
            return self._topics[name]
        except KeyError:
            raise UnknownTopic(f"topic {name!r} is not in the catalogue; {_nearest(name, self._topics)}") from None

    def topics(self) -> tuple[TopicSpec, ...]:
        """All topics, by name."""
        return tuple(self._topics[name] for name in sorted(self._topics))

    def schema(self, name: str) -> Schema:
        """The record schema of this name, as the JSON that is registered. Do not change it.

        Raises:
            UnknownSchema: no contract has this name; the message names the nearest one.
        """
        try:
            return self._schemas[name]
        except KeyError:
            raise UnknownSchema(f"there is no contract {name!r}; {_nearest(name, self._schemas)}") from None

    def schemas(self) -> dict[str, Schema]:
        """All record schemas, by record name."""
        return {name: self._schemas[name] for name in sorted(self._schemas)}


def _add(known: dict[str, Any], name: str, item: object, kind: str, where: object = "the arguments") -> None:
    if name in known:
        raise UsageError(f"{kind} {name!r} is declared twice, again in {where}: remove one or rename it")
    known[name] = item


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"it has {', '.join(names)}" if 0 < len(names) <= 12 else f"it has {len(names)} others"


def read_contracts(folder: Path) -> dict[str, Schema]:
    """The record schemas of one contract folder, by record name.

    Raises:
        UsageError: a file is not an Avro record schema, or not named as its record.
    """
    schemas = {}
    for path in sorted((folder / "contracts").glob("*.avsc")):
        try:
            schema = json.loads(path.read_text("utf-8"))
        except ValueError as exc:
            raise UsageError(f"{path}: not JSON: {exc}") from exc
        schemas[path.stem] = _checked_schema(schema, str(path))
        if schema["name"] != path.stem:
            raise UsageError(f"{path}: the record is named {schema['name']!r}; name the file {schema['name']}.avsc")
    return schemas


def _checked_schema(schema: Any, where: str) -> Schema:
    if not isinstance(schema, dict) or schema.get("type") != "record" or not schema.get("name"):
        raise UsageError(f'{where}: the value of a topic is an Avro record: {{"type": "record", "name": …}}')
    try:
        fastavro.parse_schema(schema)
        problem, misread = unsound(schema), misread_default(schema)
    except (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError, ValueError) as exc:
        raise UsageError(f"{where}: not an Avro schema: {type(exc).__name__}: {exc}") from exc
    if problem is not None:
        raise UsageError(f"{where}: {problem}; bytes of such a schema can crash a reader: reshape it")
    if misread is not None:
        raise UsageError(f"{where}: {misread}: only null, plain values, [] and {{}} can be defaults: make it nullable")
    return schema


class _Table(NamedTuple):
    """The table of one topic in a file.

    Args:
        where: the file and the line, for errors.
        name: the topic.
        options: what the table says itself.
        defaults: what the file says for its topics.
    """

    where: str
    name: str
    options: dict[str, Any]
    defaults: dict[str, Any]

    def spec(self) -> TopicSpec:
        """The topic that it declares."""
        options = self._checked(self.defaults | self.options)
        if "schema" not in options:
            raise UsageError(f'{self.where}: schema is missing; write schema = "<Record>", a file of contracts/')
        return self._made(options)

    def changing(self, shipped: TopicSpec) -> TopicSpec:
        """The shipped topic, with what the table says itself: the file's defaults are for topics of its own."""
        options = self._checked(self.options)
        if options.get("schema", shipped.schema) != shipped.schema:
            changeable = ", ".join(option for option in _OPTIONS if option != "schema")
            raise UsageError(
                f"{self.where}: this topic comes with Headwater and carries {shipped.schema}, "
                f"not {options['schema']!r}: change its {changeable}, "
                "or give a topic of your own another name"
            )
        return self._made({option: getattr(shipped, option) for option in _OPTIONS} | options)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        for option in options:
            if option not in _OPTIONS:
                raise UsageError(f"{self.where}: unknown option {option!r}; {_nearest(option, _OPTIONS)}")
        if "retention" in options:
            return options | {"retention": _retention(self.where, options["retention"])}
        return options

    def _made(self, options: dict[str, Any]) -> TopicSpec:
        try:
            return TopicSpec(name=self.name, **options)
        except UsageError as exc:
            raise UsageError(f"{self.where}: {exc}") from exc


def _read_topics(path: Path) -> list[_Table]:
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read ({exc.strerror}): a contract folder has a topics.toml") from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path}: not TOML: {exc}") from exc
    unknown = sorted(set(document) - {"defaults", "topics"})
    if unknown:
        raise UsageError(f'{path}: unknown table [{unknown[0]}]; write [topics."<topic>"] or [defaults]')
    defaults = _table(path, "[defaults]", document.get("defaults", {}))
    tables = []
    for name, options in _table(path, "[topics]", document.get("topics", {})).items():
        where = f'{path}, line {_line_of(text, name)}, [topics."{name}"]'
        tables.append(_Table(where, name, _table(path, where, options), defaults))
    return tables


def _table(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {what} must be a table, not {value!r}")
    return value


def _retention(where: str, value: Any) -> float | None:
    if value == _FOREVER:
        return None
    try:
        return seconds(value)
    except (UsageError, TypeError) as exc:
        raise UsageError(
            f'{where}: retention = {value!r}: write e.g. "{format_duration(_WEEK)}" or "{_FOREVER}"'
        ) from exc


def _line_of(text: str, topic: str) -> int:
    """Where the table of ``topic`` begins (tomllib keeps no positions)."""
    pattern = re.compile(rf"""^[ \t]*\[\s*topics\s*\.\s*["']?{re.escape(topic)}["']?\s*\]""", re.MULTILINE)
    match = pattern.search(text)
    return text.count("\n", 0, match.start()) + 1 if match else 1
