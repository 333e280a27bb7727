"""``headwater demo``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater_ops.output import AsJson

if TYPE_CHECKING:
    from headwater_ops.demo.runner import Demo, Result
    from headwater_ops.stack import Endpoints


def command(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many flights.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Events per second [default: as fast as they become visible].")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards and print the addresses.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a year of real flights through the whole pipeline and check every figure against the CSV.

    Runs on servers of its own, which start empty and are gone afterwards. Exit code 1 when anything differs.
    """
    from concurrent.futures import ThreadPoolExecutor

    from headwater_ops.demo.dataset import Dataset
    from headwater_ops.demo.runner import Demo
    from headwater_ops.demo.stages import Stages
    from headwater_ops.stack import Stack
    from headwater_ops.stack.endpoints import state_dir
    from headwater_ops.stack.progress import ProgressBar

    folder = state_dir() / "demo"
    with _stopping_cleanly(), Stages() as stages:
        with ThreadPoolExecutor(1) as pool, ProgressBar() as downloads:
            stack = Stack(folder, ports="free", progress=downloads)
            reading = pool.submit(Dataset.load, limit)
            with stages.stage("start", "Kafka, Redis, schema registry"):
                stack.down(wipe=True)
                endpoints = stack.up()
        try:
            with Demo(endpoints.settings(), folder / "worker", stages) as demo:
                result = demo.run(reading.result(), rate=rate)
                _print(result, as_json)
                if serve:
                    _serve(endpoints, demo)
        finally:
            _ignore_signals()
            stack.down(wipe=True)
    raise typer.Exit(1 if result.verdict.count else 0)


def _print(result: Result, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from headwater_ops.demo.figures import table

    for difference in result.verdict.first:
        typer.echo(str(difference), err=True)
    if as_json:
        typer.echo(msgspec.json.encode(result.figures.as_json()).decode())
    else:
        Console().print(table(result.figures))


def _serve(endpoints: Endpoints, demo: Demo) -> None:
    from headwater_ops.demo.catalogue import CONTRACT_FOLDER

    lines = [
        "still up; ^C stops everything",
        f"  worker   {demo.worker.url}/metrics  /readyz  /livez",
        f"  registry {endpoints.registry_url}/subjects",
        "in another shell:",
        *(f"  export {name}={value}" for name, value in endpoints.settings().items()),
        f"  export HEADWATER_CONTRACTS={CONTRACT_FOLDER}",
        "  headwater cache get flight 2013-01-01-UA-1545-EWR",
        "  headwater tail airport-board.changes",
    ]
    typer.echo("\n".join(lines), err=True)
    threading.Event().wait()


@contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """SIGTERM ends the run as ^C does: the worker drains, the servers stop, exit code 130."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _ignore_signals() -> None:
    """While stopping: an impatient second ^C would leave servers behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
