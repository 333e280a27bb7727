"""``headwater emit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headwater_producers import Delivery, EventProducer

_BATCH = 10_000
_PROGRESS_SECONDS = 1.0


def command(
    topic: Annotated[str, typer.Argument(help="A topic of the catalogue.")],
    key: Annotated[str | None, typer.Option(help="The field that gives the key. Compacted topics need one.")] = None,
    source: Annotated[str, typer.Option(help="Who emits: ce_source of the events.")] = "headwater-emit",
    rate: Annotated[str | None, typer.Option(help="How fast at most, such as 500/s.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Emit the JSON lines of stdin, one value a line; ends when all are acknowledged.

    Dates are ISO 8601 text, bytes are base64, decimals are text. A line that does not fit the schema ends the command
    with its number; the lines before it are emitted.
    """
    from headwater_ops.stack import environment
    from headwater_producers import EventProducer, ProducerSettings
    from headwater_schemas.catalogue import Catalogue
    from headwater_schemas.rates import per_second
    from headwater_schemas.registry import Registry
    from headwater_schemas.settings import RegistrySettings

    env = environment()
    catalogue = Catalogue.from_env(env)
    settings = ProducerSettings.from_env(env)
    if rate is not None:
        settings = replace(settings, rate=per_second(rate))
    read = _reader(catalogue.schema(catalogue.topic(topic).schema), key)
    progress = _Progress(quiet)
    with (
        Registry(RegistrySettings.from_env(env)) as registry,
        EventProducer(settings, catalogue, registry, source=source) as producer,
    ):
        for batch in _batches(_emitted(producer, topic, read), settings.rate or _BATCH):
            for delivery in batch:
                delivery.result()
            progress.add(len(batch))
    progress.close(topic)


def _reader(schema: dict[str, Any], key: str | None) -> Callable[[bytes], tuple[Any, str | None]]:
    """Parses a line into a value that fits the schema, and its key."""
    import msgspec

    from headwater_schemas.errors import UsageError
    from headwater_schemas.value_types import NATIVE, value_type

    names = [field["name"] for field in schema["fields"]]
    if key is not None and key not in names:
        raise UsageError(f"--key {key}: {schema['name']} has no such field; it has {', '.join(names)}")
    typed = msgspec.json.Decoder(value_type(schema))

    def read(line: bytes) -> tuple[Any, str | None]:
        value = msgspec.to_builtins(typed.decode(line), builtin_types=NATIVE)
        return value, None if key is None else str(value[key])

    return read


def _emitted(
    producer: EventProducer, topic: str, read: Callable[[bytes], tuple[Any, str | None]]
) -> Iterator[Delivery]:
    import msgspec

    from headwater_schemas.errors import InvalidValue

    for number, line in enumerate(sys.stdin.buffer, start=1):
        if not line.strip():
            continue
        try:
            value, key = read(line)
            delivery = producer.emit(topic, value, key=key)
        except (msgspec.DecodeError, InvalidValue) as exc:
            raise InvalidValue(f"line {number}: {exc}; the {number - 1} lines before it are emitted") from exc
        yield delivery


def _batches(deliveries: Iterator[Delivery], size: float) -> Iterator[list[Delivery]]:
    """Chunks to wait for, so that memory is bounded however long the input is."""
    from itertools import islice

    while batch := list(islice(deliveries, max(1, min(int(size), _BATCH)))):
        yield batch


class _Progress:
    """A line on stderr each second, and one at the end."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._count = 0
        self._started = self._said = time.monotonic()

    def add(self, events: int) -> None:
        self._count += events
        now = time.monotonic()
        if not self._quiet and now - self._said >= _PROGRESS_SECONDS:
            self._said = now
            typer.echo(f"{self._count:,} events acknowledged, {self._rate(now):,.0f}/s", err=True)

    def close(self, topic: str) -> None:
        if not self._quiet:
            rate = self._rate(time.monotonic())
            typer.echo(f"{self._count:,} events to {topic} acknowledged, {rate:,.0f}/s", err=True)

    def _rate(self, now: float) -> float:
        return self._count / max(now - self._started, 1e-9)
