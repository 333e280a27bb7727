"""``headwater lag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import UsageError

if TYPE_CHECKING:
    from headwater_ops.lag import GroupLag


def command(
    group: Annotated[str | None, typer.Argument(help="A consumer group [default: all].")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay, and serve the figures to Prometheus on HEADWATER_LAG_HTTP.")
    ] = False,
    interval: Annotated[str, typer.Option(help="With --serve: how often the brokers are asked.")] = "10s",
    as_json: AsJson = False,
) -> None:
    """Show how far groups are behind: records and seconds, per partition.

    Records that wait in retry tiers or parked behind one of their key are shown apart: they are no backlog. The seconds
    of a retry tier say how long its first record is overdue.
    """
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.durations import seconds
    from headwater_schemas.settings import KafkaSettings

    env = environment()
    if serve:
        if group is not None or as_json:
            raise UsageError("--serve collects every group and prints nothing: leave GROUP and --json out")
        from headwater_ops.lag.server import serve as run

        if (every := seconds(interval)) < 1:
            raise UsageError(
                f"--interval {interval}: asking the brokers more than once a second is no use; pass e.g. 10s"
            )
        run(env, every)
        return
    from headwater_ops.lag import read_lag
    from headwater_streams.transport.log import Log

    groups = read_lag(Log(KafkaSettings.from_env(env)), None if group is None else [group])
    if as_json:
        print_json(groups)
    elif not groups:
        typer.echo("no group has committed anything yet")
    for shown in () if as_json else groups:
        _print(shown)


def _print(group: GroupLag) -> None:
    backlog = [lag for lag in group.partitions if lag.kind == "backlog"]
    behind = max((lag.seconds for lag in backlog), default=0.0)
    waiting = group.total("retry") + group.total("parked")
    typer.echo(
        f"{group.group}: {group.state}, {group.members} members, {group.total('backlog')} records behind "
        f"({behind:.1f} s), {waiting} waiting to be retried"
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
                f"{lag.seconds:.1f}",
                lag.committed,
                lag.end,
                lag.expired or None,
            )
            for lag in group.partitions
        ],
    )
