"""Peers of ``bench/handler.py`` whose pins are not ours: Quix Streams and Arroyo, each as its own manual sets it up.

    .bench/handler-peers/bin/python bench/handler_peers.py NAME BOOTSTRAP TOPIC RECORDS

They live in an environment of their own, made by ``make bench-handler`` from ``handler_peers.txt``. Each handler
decodes the event and does nothing; each commits at least once at its default interval (Quix Streams 5 s, Arroyo 1 s).
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from handler_event import Span, decode

__all__ = ["PEERS", "interpreter"]


def interpreter() -> Path | None:
    """The Python that has the peers; ``None`` when their environment was not made."""
    python = Path(__file__).parent.parent / ".bench/handler-peers/bin/python"
    return python if python.exists() else None


def quix(bootstrap: str, topic: str, records: int) -> None:
    """A streaming dataframe of one update. The value is taken as bytes: the cheapest deserializer there is."""
    from quixstreams import Application

    span = Span(records)
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            bootstrap,
            consumer_group=f"quix-{uuid.uuid4().hex}",
            auto_offset_reset="earliest",
            auto_create_topics=False,
            state_dir=folder,
            loglevel=None,
        )
        span.done = app.stop

        def nothing(value: bytes) -> None:
            decode(value)
            if span.seen < records:
                span.hit()

        source = app.topic(topic, key_deserializer="bytes", value_deserializer="bytes")
        app.dataframe(source).update(nothing)
        app.run()
    span.report()


def arroyo(bootstrap: str, topic: str, records: int) -> None:
    """A task in the consumer's thread, then the strategy that commits."""
    from arroyo.backends.kafka import KafkaConsumer, build_kafka_consumer_configuration
    from arroyo.processing import StreamProcessor
    from arroyo.processing.strategies import CommitOffsets, ProcessingStrategyFactory, RunTask
    from arroyo.types import Topic

    span = Span(records)

    def nothing(message: Any) -> None:
        decode(message.payload.value)
        if span.seen < records:
            span.hit()

    class Factory(ProcessingStrategyFactory):  # type: ignore[misc]  # arroyo is not in this environment
        def create_with_partitions(self, commit: Any, partitions: Mapping[Any, int]) -> Any:
            return RunTask(nothing, CommitOffsets(commit))

    consumer = KafkaConsumer(
        build_kafka_consumer_configuration({}, f"arroyo-{uuid.uuid4().hex}", bootstrap_servers=[bootstrap])
    )
    processor = StreamProcessor(consumer, Topic(topic), Factory())
    span.done = processor.signal_shutdown
    processor.run()
    span.report()


PEERS: Mapping[str, Callable[[str, str, int], None]] = {"quix": quix, "arroyo": arroyo}


if __name__ == "__main__":
    name, bootstrap, topic, records = sys.argv[1:]
    PEERS[name](bootstrap, topic, int(records))
