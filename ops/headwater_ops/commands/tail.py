"""``headwater tail``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faust.types import TP

    from headwater_streams.handlers.message import Message
    from headwater_streams.transport.log import Log


def command(
    topic: Annotated[str, typer.Argument(help="Any topic of the brokers.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="beginning, end, an offset, a time (2026-11-24T09:30, UTC unless it says otherwise) or an age (15m) "
            "[default: the newest records, as many as --limit].",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Records to print [default: all; 10 without --from].")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
) -> None:
    """Print records of TOPIC as JSON lines, decoded. What cannot be decoded is printed as hex, with the reason.

    Records of one partition come in their order; those of several are not merged by time. Joins no consumer group.
    """
    from headwater_ops.stack.endpoints import environment
    from headwater_schemas.codec import Codec
    from headwater_schemas.settings import KafkaSettings
    from headwater_streams.readable import json_line, readable
    from headwater_streams.transport.log import Log

    env = environment()
    log = Log(KafkaSettings.from_env(env))
    codec = Codec.from_env(env)
    try:
        decode = codec.decoder()
        partitions = [tp for tp in log.partitions(topic) if partition in (None, tp.partition)]
        for message in _records(log, partitions, start, limit, follow):
            typer.echo(json_line(readable(message, decode)))
    finally:
        codec.close()


def _records(log: Log, partitions: list[TP], start: str | None, limit: int | None, follow: bool) -> Iterator[Message]:
    from itertools import islice

    from headwater_schemas.errors import UsageError

    if not partitions:
        raise UsageError("there is no such partition")
    ends = log.ends(partitions)
    if start is None:
        yield from _newest(log, ends, limit or 10)
        if follow:
            yield from log.follow(ends)
        return
    starts = _positions(log, partitions, start)
    messages = log.follow(starts) if follow else log.read({tp: (at, ends[tp]) for tp, at in starts.items()})
    yield from islice(messages, limit)


def _newest(log: Log, ends: dict[TP, int], count: int) -> list[Message]:
    """The newest records by their timestamps; fewer where compaction left gaps."""
    spans = {tp: (max(0, end - count), end) for tp, end in ends.items()}
    newest = sorted(log.read(spans), key=lambda message: message.timestamp()[1])
    return newest[-count:]


def _positions(log: Log, partitions: list[TP], start: str) -> dict[TP, int]:
    """The offset that each partition is read from."""
    from headwater_ops.times import moment
    from headwater_schemas.errors import UsageError

    if start == "beginning":
        return log.starts(partitions)
    if start == "end":
        return log.ends(partitions)
    if start.isdecimal():
        return dict.fromkeys(partitions, int(start))
    try:
        return log.at(partitions, moment(start))
    except UsageError as exc:
        raise UsageError(f"--from: {exc}; or pass beginning, end or an offset") from None
