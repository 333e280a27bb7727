"""Whether the worker has settled everything: committed offsets against the ends of all that its group reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from faust.types import TP

from headwater_ops.demo.topics import GROUP
from headwater_schemas.errors import BrokerUnavailable, Unavailable
from headwater_schemas.settings import KafkaSettings

__all__ = ["Backlog"]

_ANSWER = 15.0


class Backlog:
    """Of the demo's group. Holds a connection until ``close``.

    Asks as a consumer that never joins, not as an admin client: librdkafka's admin client crashes the process when the
    coordinator of the group is just being loaded (confluentinc/librdkafka#5040).
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._consumer = Consumer({**kafka.client_config(), "group.id": GROUP, "enable.auto.commit": False})

    def records(self, topics: list[str]) -> int:
        """Records of these topics and of their retry tiers that are not settled. Blocks.

        Raises:
            BrokerUnavailable: Kafka does not answer.
        """
        tiers = tuple(f"{topic}.{GROUP}.retry." for topic in topics)
        try:
            existing = self._consumer.list_topics(timeout=_ANSWER).topics
            read = [name for name in existing if name in topics or name.startswith(tiers)]
            partitions = [TopicPartition(name, number) for name in read for number in existing[name].partitions]
            # Committed first: what is committed meanwhile must not make the lag look smaller than it was.
            committed = self._consumer.committed(partitions, timeout=_ANSWER)
            # As a time, the end of the log is the number of OFFSET_END.
            asked = [TopicPartition(tp.topic, tp.partition, OFFSET_END) for tp in partitions]
            ends = self._consumer.offsets_for_times(asked, timeout=_ANSWER)
        except KafkaException as exc:
            raise BrokerUnavailable(f"cannot read what the worker has settled: {exc.args[0].str()}") from exc
        settled = {TP(tp.topic, tp.partition): max(0, tp.offset) for tp in committed}
        return sum(max(0, tp.offset - settled[TP(tp.topic, tp.partition)]) for tp in ends)

    def await_empty(self, topics: list[str], watch: Callable[[], None], timeout: float) -> None:
        """Block until nothing is left, twice in a row: what is settled may have emitted more.

        Args:
            watch: called between two looks; may raise.

        Raises:
            Unavailable: something is left after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        empty = 0
        while empty < 2:
            left = self.records(topics)
            empty = empty + 1 if left == 0 else 0
            if time.monotonic() > deadline:
                raise Unavailable(f"{left} records are not settled after {timeout:.0f} s")
            watch()
            time.sleep(0.1)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()
