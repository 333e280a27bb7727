from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue, read_contracts
from headwater_schemas.codec import Codec
from headwater_schemas.errors import UsageError
from headwater_schemas.generate import module_source
from headwater_schemas.registry import LocalRegistry
from schemas.samples import ORDER, TOPIC, catalogue, codec, order
from schemas.strategies import Sample, samples

EVERYTHING: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "namespace": "shop",
    "doc": 'Quotes """ and a backslash \\',
    "fields": [
        {"name": "class", "type": "int", "doc": "A keyword."},
        {"name": "from", "type": ["null", "string"], "default": None},
        {"name": "either", "type": ["null", "string", "int"], "default": None},
        {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 3}},
        {"name": "code_again", "type": "Code"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "None"]}, "default": "A"},
        {"name": "kinds", "type": {"type": "map", "values": "shop.Kind"}, "default": {}},
        {"name": "names", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}},
        {"name": "quoted", "type": "string", "default": 'it\'s "q" \\ \n ü'},
        {"name": "uid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "limit", "type": "int", "default": 7},
        {"name": "ratio", "type": "double", "default": 0.5},
        {"name": "yes", "type": "boolean", "default": True},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "doc": "word " * 60},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "hour", "type": {"type": "long", "logicalType": "time-micros"}},
        {
            "name": "inner",
            "type": ["null", {"type": "record", "name": "Inner", "fields": [{"name": "n", "type": "long"}]}],
            "default": None,
        },
    ],
}


def run(source: str) -> Any:
    """The module of generated source, as an import would give it."""
    module = types.ModuleType("generated")
    sys.modules[module.__name__] = module
    exec(compile(source, "generated.py", "exec"), module.__dict__)  # our own source
    return module


def test_a_generated_struct_reads_and_writes_its_schema() -> None:
    made = run(module_source([ORDER]))
    subject = codec()

    value = subject.encoder(TOPIC)(order())
    struct: type[Any] = made.OrderPlaced
    decoded = subject.decoder(TOPIC, struct)(value)

    assert decoded.state is made.State.PAID
    assert decoded.lines == [made.Line(sku="tea", count=2, class_="dry")]
    assert subject.encoder(TOPIC)(decoded) == value


def test_defaults_are_the_schemas() -> None:
    made = run(module_source([EVERYTHING]))
    required = {"class": 1, "code": b"abc", "code_again": b"abc", "price": "1.50", "at": "2026-01-01T00:00:00Z"}
    required |= {"uid": "5b3a8a58-2c1d-4d6c-9d3e-6f1f0c1c9a11", "day": "2026-01-01", "hour": "10:00:00"}
    json = required | {"code": "YWJj", "code_again": "YWJj"}
    subject = codec(EVERYTHING)

    struct = msgspec.convert(json, made.Everything)
    by_struct = subject.encoder(TOPIC)(struct)
    by_schema = subject.encoder(TOPIC)(subject.from_json(TOPIC, json))

    assert struct.quoted == 'it\'s "q" \\ \n ü'
    assert struct.kind is made.Kind.A
    assert made.Kind.None_ == "None"
    assert by_struct == by_schema


def test_docs_become_docstrings() -> None:
    made = run(module_source([EVERYTHING]))

    assert made.Everything.__doc__ == "Quotes ''' and a backslash \\"
    assert '    class_: int = msgspec.field(name="class")\n    """A keyword."""' in module_source([EVERYTHING])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_schema_gives_structs_that_round_trip(data: st.DataObject) -> None:
    sample: Sample = data.draw(samples())
    made = run(module_source([sample.schema]))
    subject = Codec(catalogue(sample.schema), LocalRegistry())

    struct: type[Any] = getattr(made, sample.schema["name"])
    written = subject.encoder(TOPIC)(data.draw(sample.values))
    decoded = subject.decoder(TOPIC, struct)(written)

    assert subject.encoder(TOPIC)(decoded) == written


def test_the_source_passes_the_formatter_the_linter_and_the_type_checker(tmp_path: Path) -> None:
    path = tmp_path / "generated.py"
    path.write_text(module_source([EVERYTHING, ORDER]), "utf-8")
    root = Path(__file__).parents[2]

    for command in (
        ["ruff", "format", "--check", "--config", str(root / "pyproject.toml")],
        ["ruff", "check", "--config", str(root / "pyproject.toml")],
        ["mypy", "--strict", "--no-incremental", "--follow-imports=silent"],
    ):
        done = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:], str(path)],
            cwd=root,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_contracts_give_the_same_text_in_any_order() -> None:
    assert module_source([ORDER, EVERYTHING]) == module_source([EVERYTHING, ORDER])


def test_one_type_may_be_used_by_two_contracts_but_two_types_of_one_name_may_not() -> None:
    def uses(name: str, inner: str) -> dict[str, Any]:
        part = {"type": "record", "name": "Part", "fields": [{"name": inner, "type": "int"}]}
        return {"type": "record", "name": name, "fields": [{"name": "part", "type": part}]}

    assert module_source([uses("A", "n"), uses("B", "n")]).count("class Part(") == 1
    with pytest.raises(UsageError, match="different types named Part: rename one"):
        module_source([uses("A", "n"), uses("B", "m")])


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        ({"type": "array", "items": "int"}, [1]),
        ({"type": "long", "logicalType": "timestamp-micros"}, 0),
        ({"type": "record", "name": "Inner", "fields": []}, {}),
    ],
)
def test_a_default_without_python_source_is_refused(type_: Any, default: Any) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "f", "type": type_, "default": default}]}

    with pytest.raises(UsageError, match=r"R\.f: a default of .* is not supported"):
        module_source([schema])


def test_the_committed_events_are_what_the_contracts_say() -> None:
    """When this fails: headwater schemas generate."""
    committed = (PACKAGE_FOLDER / "events.py").read_text("utf-8")

    assert committed == module_source(read_contracts(PACKAGE_FOLDER).values())


def test_every_shipped_contract_has_its_struct() -> None:
    import headwater_schemas.events as events

    assert set(Catalogue.load().schemas()) <= set(events.__all__)
