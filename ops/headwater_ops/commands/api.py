"""``headwater api``: the HTTP API, and the keys that it accepts."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Serve the HTTP API on HEADWATER_API_HTTP until told to stop; make keys for it.")


@app.callback(invoke_without_command=True)
def serve(context: typer.Context) -> None:
    """Serve the HTTP API on HEADWATER_API_HTTP until told to stop.

    With HEADWATER_API_KEYS callers need a key; without it only this machine may call.
    """
    if context.invoked_subcommand is not None:
        return
    from headwater_ops.cache_api import cache_router
    from headwater_ops.stack.endpoints import environment
    from headwater_tasks.http import serve

    env = environment()
    typer.echo(f"serving on http://{env.text('HEADWATER_API_HTTP')}/v1", err=True)
    serve(env, routers=[cache_router(env)])


@app.command("new-key")
def new_key(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[list[str], typer.Option(help="What it may do, such as tasks:read; repeat it for more.")],
) -> None:
    """Make an API key. The key goes to stderr, once; its table, for the key file, to stdout."""
    from headwater_tasks.http.keys import new_key

    token, table = new_key(name, scope)
    typer.echo(f"{name}: {token}   (keep it: it cannot be shown again)", err=True)
    typer.echo(table)
