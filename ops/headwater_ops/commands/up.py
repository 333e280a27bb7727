"""``headwater up``."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from headwater_ops.output import AsJson, print_json
from headwater_ops.stack.endpoints import Endpoints


class Ports(StrEnum):
    AUTO = "auto"
    USUAL = "usual"


def command(
    brokers: Annotated[int | None, typer.Option(help="Kafka brokers, 1 or 3 [default: 1, or as before].")] = None,
    ports: Annotated[Ports, typer.Option(help="auto: the usual ones if free, else others.")] = Ports.AUTO,
    timeout: Annotated[float, typer.Option(help="Seconds a part may take to start.")] = 120.0,
    export: Annotated[bool, typer.Option("--export", help="Print shell export lines only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start Kafka, Redis and the schema registry on this machine. Does nothing when they run."""
    from headwater_ops.stack.progress import ProgressBar
    from headwater_ops.stack.stack import Stack

    started = time.monotonic()
    with ProgressBar() as progress:
        stack = Stack(brokers=brokers, ports=ports.value, progress=progress)
        endpoints = stack.up(timeout=timeout)
    if as_json:
        print_json(endpoints)
    elif export:
        typer.echo(_exports(endpoints))
    else:
        typer.echo(f"up in {time.monotonic() - started:.1f} s; state and logs: {stack.state_dir}")
        typer.echo("headwater commands find it by themselves; for other programs:\n")
        typer.echo(_exports(endpoints))


def _exports(endpoints: Endpoints) -> str:
    return "\n".join(f"export {name}={value}" for name, value in endpoints.settings().items())
