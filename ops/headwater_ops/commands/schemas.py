"""``headwater schemas``: the gate, registration, and typed events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import UsageError

if TYPE_CHECKING:
    from headwater_schemas.gate import Verdict

app = typer.Typer(no_args_is_help=True, help="Check, register and generate from the contracts.")

Folder = Annotated[
    list[Path] | None,
    typer.Option("--contracts", help="A contract folder; default: the shipped one and HEADWATER_CONTRACTS."),
]


@app.command()
def check(
    contracts: Folder = None,
    against: Annotated[str | None, typer.Option(help="A git revision; default: where HEAD left main.")] = None,
    tags: Annotated[str, typer.Option(help="Which git tags are releases.")] = "v*",
    registry: Annotated[bool, typer.Option("--registry", help="Compare with the registry instead of git.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a change of the contracts would break. Exit code 1 when it breaks something.

    Without --registry no server is needed: the earlier versions come out of git.
    """
    if registry and against is not None:
        raise UsageError("--against and --registry exclude each other: compare with git or with the registry")
    verdicts: list[Verdict] = []
    for folder in _folders(contracts):
        verdicts += _with_registry(folder) if registry else _with_git(folder, against, tags)
    broken = [verdict for verdict in verdicts if verdict.breaks]
    if as_json:
        print_json(verdicts)
    else:
        _explain(verdicts, broken)
    if broken:
        raise typer.Exit(1)


@app.command()
def register(as_json: AsJson = False) -> None:
    """Register every topic's schema with its compatibility level. Safe to repeat."""
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.catalogue import Catalogue
    from headwater_schemas.registration import register_all
    from headwater_schemas.registry import Registry

    env = environment()
    with Registry.from_env(env) as registry:
        done = register_all(Catalogue.from_env(env), registry)
    if as_json:
        print_json(done)
    else:
        print_table(
            ("topic", "subject", "schema id", "compatibility"),
            [(row.topic, row.subject, row.schema_id, row.level) for row in done],
        )


@app.command()
def generate(
    contracts: Annotated[
        list[Path] | None,
        typer.Option(
            "--contracts", help="A contract folder; default: those of HEADWATER_CONTRACTS, else the shipped one."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The module to write, of one folder; default: events.py in the folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a file would change.")] = False,
) -> None:
    """Write the typed events (msgspec structs) of a contract folder as a Python module."""
    folders = contracts or _folders_of_settings()
    if output is not None and len(folders) > 1:
        raise UsageError(f"--output names one module and {len(folders)} folders are given: pass one to --contracts")
    stale = [folder for folder in folders if not _generated(folder, output or folder / "events.py", write=not check)]
    if stale:
        raise typer.Exit(1)


def _folders_of_settings() -> list[Path]:
    """Where typed events belong: a folder that only names topics has none."""
    from headwater_schemas.catalogue import PACKAGE_FOLDER
    from headwater_schemas.settings import Environment

    named = Environment().paths("HEADWATER_CONTRACTS") or (PACKAGE_FOLDER,)
    return [folder for folder in named if any((folder / "contracts").glob("*.avsc"))] or list(named)


def _generated(folder: Path, target: Path, *, write: bool) -> bool:
    """Whether ``target`` is what the contracts of ``folder`` say, in the end."""
    from headwater_schemas.catalogue import read_contracts
    from headwater_schemas.generate import module_source

    schemas = read_contracts(folder)
    if not schemas:
        raise UsageError(f"{folder} has no contracts/*.avsc: pass a contract folder to --contracts")
    source = module_source(schemas.values())
    if target.exists() and target.read_text("utf-8") == source:
        typer.echo(f"{target} is up to date")
        return True
    if not write:
        typer.echo(f"{target} is not what the contracts say: run headwater schemas generate", err=True)
        return False
    target.write_text(source, "utf-8")
    typer.echo(f"wrote {target}")
    return True


def _folders(contracts: list[Path] | None) -> list[Path]:
    from headwater_schemas.catalogue import PACKAGE_FOLDER
    from headwater_schemas.settings import Environment

    return contracts or [PACKAGE_FOLDER, *Environment().paths("HEADWATER_CONTRACTS")]


def _with_git(folder: Path, against: str | None, tags: str) -> list[Verdict]:
    from headwater_schemas.gate import against_releases
    from headwater_schemas.history import default_revision, load_folder, releases

    revision = against or default_revision(folder)
    return against_releases(load_folder(folder), releases(folder, revision, tags))


def _with_registry(folder: Path) -> list[Verdict]:
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.gate import against_registry
    from headwater_schemas.history import load_folder
    from headwater_schemas.registry import Registry

    with Registry.from_env(environment()) as registry:
        return against_registry(load_folder(folder), registry)


def _explain(verdicts: list[Verdict], broken: list[Verdict]) -> None:
    for verdict in broken:
        for found in verdict.breaks:
            typer.echo(f"{verdict.topic}: {found.field or 'the record'}: {found.why}")
            typer.echo(f"    breaks {verdict.level} ({found.direction.lower()}, against {found.against})")
            typer.echo(f"    instead: {found.instead}")
    compared = sum(1 for verdict in verdicts if verdict.compared)
    new = len(verdicts) - compared
    typer.echo(f"{compared} topics compared, {new} new, {len(broken)} would break")
