"""``headwater lag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import HeadwaterError, UsageError

if TYPE_CHECKING:
    from headwater_ops.lag import GroupLag


def command(
    group: Annotated[str | None, typer.Argument(help="A consumer group [default: all].")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay, and serve the figures to Prometheus on HEADWATER_LAG_HTTP.")
    ] = False,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="PATTERN",
            help="With --serve: only groups like this, such as 'billing*'; can be repeated [default: all].",
        ),
    ] = None,
    interval: Annotated[str, typer.Option(help="With --serve: how often the brokers are asked.")] = "10s",
    as_json: AsJson = False,
) -> None:
    """Show how far groups are behind: records and seconds, per partition.

    Records that wait in retry tiers or parked behind one of their key are shown apart: they are no backlog. The seconds
    of a retry tier say how long its first record is overdue. Exit code 1 when something could not be read: stderr says
    what, and the rest is shown.
    """
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.durations import seconds
    from headwater_schemas.settings import KafkaSettings

    env = environment()
    if serve:
        if group is not None or as_json:
            raise UsageError("--serve prints nothing: leave --json out, and pass --group for GROUP")
        from headwater_ops.lag.server import serve as run

        if (every := seconds(interval)) < 1:
            raise UsageError(
                f"--interval {interval}: asking the brokers more than once a second is no use; pass e.g. 10s"
            )
        run(env, every, groups or ("*",))
        return
    if groups:
        raise UsageError("--group goes with --serve: pass GROUP without the option, or nothing for all")
    from headwater_ops.lag import read_lag
    from headwater_streams.transport.log import Log

    failed: list[HeadwaterError] = []
    found = read_lag(Log(KafkaSettings.from_env(env)), None if group is None else [group], failed=failed)
    if as_json:
        print_json(found)
    elif not found and not failed:
        typer.echo("no group has committed anything yet")
    for shown in () if as_json else found:
        _print(shown)
    for error in failed:
        typer.echo(f"headwater: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _print(group: GroupLag) -> None:
    backlog = [lag for lag in group.partitions if lag.kind == "backlog"]
    ages = [lag.seconds for lag in backlog]
    age = "of unknown age" if None in ages else f"{max((each for each in ages if each is not None), default=0.0):.1f} s"
    waiting = group.total("retry") + group.total("parked")
    typer.echo(
        f"{group.group}: {group.state}, {group.members} members, {group.total('backlog')} records behind "
        f"({age}), {waiting} waiting to be retried"
    )
    if not group.partitions:
        typer.echo("    never committed anything\n")
        return
    print_table(
        ("topic", "partition", "kind", "records", "seconds", "committed", "end", "expired"),
        [
            (
                lag.topic,
                lag.partition,
                lag.kind,
                lag.records,
                None if lag.seconds is None else f"{lag.seconds:.1f}",
                lag.committed,
                lag.end,
                lag.expired or None,
            )
            for lag in group.partitions
        ],
    )
