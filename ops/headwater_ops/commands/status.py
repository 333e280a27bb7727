"""``headwater status``."""

from __future__ import annotations

import typer

from headwater_ops.output import AsJson, print_json, print_table


def command(as_json: AsJson = False) -> None:
    """Show the parts of the embedded stack. Exit code 1 unless every part serves."""
    from headwater_ops.stack.stack import Stack

    stack = Stack()
    parts = stack.status()
    if as_json:
        print_json(parts)
    elif not parts:
        typer.echo(f"no embedded stack in {stack.state_dir}: headwater up starts one")
    else:
        print_table(
            ("part", "state", "ports", "pid", "memory", "log"),
            [
                (
                    part.name,
                    "ready" if part.ready else "starting or stuck" if part.pid else "down",
                    " ".join(f"{listener}={port}" for listener, port in part.ports.items()),
                    part.pid,
                    f"{part.memory >> 20} MiB" if part.memory else None,
                    part.log,
                )
                for part in parts
            ],
        )
    if not parts or not all(part.ready for part in parts):
        raise typer.Exit(1)
