"""``headwater outbox``: the relay, and what it could not send. The database is ``HEADWATER_OUTBOX_URL``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

app = typer.Typer(no_args_is_help=True, help="Relay the transactional outbox of a database to Kafka.")


@app.command()
def relay(
    once: Annotated[bool, typer.Option("--once", help="Send what is there now, then end.")] = False,
) -> None:
    """Send what is committed in the outbox, until SIGTERM or ^C.

    Serves /livez, /readyz and /metrics on HEADWATER_OUTBOX_HTTP. On PostgreSQL several relays may run.
    """
    _need_sqlalchemy()
    from headwater_ops.relaying import relay_once, serve
    from headwater_ops.stack import environment

    if once:
        typer.echo(f"{relay_once(environment()):,} events relayed", err=True)
    else:
        serve(environment())


@app.command()
def create() -> None:
    """Create the outbox's tables, indexes and trigger where they are missing."""
    _need_sqlalchemy()
    from headwater_producers.outbox import create_outbox
    from headwater_producers.outbox.border import database_errors

    with database_errors():
        create_outbox(_engine())


@app.command()
def parked(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show events that the broker refused for good, the oldest first."""
    _need_sqlalchemy()
    from headwater_producers.outbox import parked_events

    events = parked_events(_engine(), limit=limit)
    if as_json:
        print_json(events)
    else:
        rows = [(event.id, event.topic, event.key, event.created_at.isoformat(), event.error) for event in events]
        print_table(("id", "topic", "key", "created", "error"), rows)


@app.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of parked events.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All parked events.")] = False,
) -> None:
    """Let the relay send parked events again, once what was wrong is mended."""
    _need_sqlalchemy()
    from headwater_producers.outbox import retry_parked

    if bool(ids) is every:
        raise UsageError("pass the ids of parked events, or --all")
    typer.echo(f"{retry_parked(_engine(), None if every else ids):,} events will be sent again")


def _engine() -> Engine:
    from headwater_ops.stack import environment
    from headwater_producers.outbox import RelaySettings, make_engine

    return make_engine(RelaySettings.from_env(environment()).url)


def _need_sqlalchemy() -> None:
    from importlib.util import find_spec

    if find_spec("sqlalchemy") is None:
        raise UsageError("the outbox needs SQLAlchemy: pip install 'headwater-producers[outbox]'")
