"""``headwater down``."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    wipe: Annotated[bool, typer.Option("--wipe", help="Also remove the stack's data, configuration and logs.")] = False,
) -> None:
    """Stop Kafka, Redis and the schema registry. Fine when they do not run."""
    from headwater_ops.stack.stack import Stack

    stack = Stack()
    stack.down(wipe=wipe)
    typer.echo("down, state removed" if wipe else f"down; state is kept in {stack.state_dir}")
