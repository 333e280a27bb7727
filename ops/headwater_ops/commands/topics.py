"""``headwater topics``: the catalogue and what Kafka has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater_ops.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from headwater_schemas.catalogue import TopicSpec
    from headwater_schemas.topics import Difference

app = typer.Typer(no_args_is_help=True, help="List the declared topics; create and check them in Kafka.")

Grow = Annotated[bool, typer.Option("--grow-partitions", help="Also grow partitions: keys move, their order breaks.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the declared topics. Asks no server."""
    from headwater_schemas.catalogue import Catalogue

    topics = Catalogue.from_env().topics()
    if as_json:
        print_json(topics)
        return
    print_table(
        ("topic", "schema", "partitions", "keeps", "compatibility"),
        [(spec.name, spec.schema, _partitions(spec), _keeps(spec), spec.compatibility) for spec in topics],
    )


@app.command("apply")
def apply_(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what differs; exit code 1 if something does.")
    ] = False,
    grow_partitions: Grow = False,
    register: Annotated[bool, typer.Option("--register", help="Also register the schemas.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that each request to Kafka may take.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Create the declared topics and set their options. Safe to repeat; deletes nothing.

    Exit code 1 when something is left that apply does not change (fewer partitions, another replication).
    """
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.catalogue import Catalogue
    from headwater_schemas.registration import register_all
    from headwater_schemas.registry import Registry
    from headwater_schemas.settings import KafkaSettings
    from headwater_schemas.topics import admin_client, apply, plan

    env = environment()
    catalogue = Catalogue.from_env(env)
    admin = admin_client(KafkaSettings.from_env(env))
    differences = plan(catalogue.topics(), admin, grow_partitions=grow_partitions, timeout=timeout)
    if not dry_run:
        apply(differences, admin, timeout=timeout)
        if register:
            with Registry.from_env(env) as registry:
                register_all(catalogue, registry)
    _print(differences, dry_run, as_json)
    if any(dry_run or difference.action == "report" for difference in differences):
        raise typer.Exit(1)


def _print(differences: list[Difference], dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json([_row(difference, dry_run) for difference in differences])
    elif not differences:
        typer.echo("every topic is as declared")
    else:
        print_table(
            ("topic", "option", "is", "declared", "done", "why"),
            [list(_row(difference, dry_run).values()) for difference in differences],
        )


def _row(difference: Difference, dry_run: bool) -> dict[str, str | None]:
    done = {"create": "created", "set": "set", "grow": "grown", "report": "nothing"}[difference.action]
    return {
        "topic": difference.topic,
        "option": difference.option,
        "is": difference.found,
        "declared": difference.wanted,
        "done": f"would be {done}" if dry_run and difference.action != "report" else done,
        "why": difference.why or None,
    }


def _partitions(spec: TopicSpec) -> str:
    return f"{spec.partitions}" if spec.replication is None else f"{spec.partitions}, {spec.replication} copies"


def _keeps(spec: TopicSpec) -> str:
    from headwater_schemas.durations import format_duration

    time = "forever" if spec.retention is None else format_duration(spec.retention)
    return {"compact": "newest per key", "compact,delete": f"newest per key, {time}", "delete": time}[spec.cleanup]
