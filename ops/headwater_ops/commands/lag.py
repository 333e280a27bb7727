"""``headwater lag``."""

from __future__ import annotations

from collections.abc import Iterator
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
    else:
        print_table(
            ("group", "topic", "partition", "committed", "end", "lag", "waiting", "behind", "expired"),
            _rows(groups),
        )


def _rows(groups: list[GroupLag]) -> Iterator[tuple[object, ...]]:
    for group in groups:
        name = f"{group.group} ({group.state}, {group.members} members)"
        if not group.partitions:
            yield (name, "never committed", *[None] * 7)
        for lag in group.partitions:
            backlog = lag.kind == "backlog"
            yield (
                name,
                lag.topic,
                lag.partition,
                lag.committed,
                lag.end,
                lag.records if backlog else None,
                None if backlog else lag.records,
                f"{lag.seconds:.1f} s" if lag.records else None,
                lag.expired or None,
            )
            name = ""
