"""Partitions that the group has taken from a member which goes on with them.

By KIP-848 the coordinator tells a member once what it may keep, in the answer to a heartbeat, and then waits for it to
give the rest back: for as long as its rebalance time-out, which is ``max.poll.interval.ms``, five minutes by default.
Meanwhile nobody works on what others wait for. librdkafka 2.16 sometimes misses that word (seen in one of twenty runs
that end and kill workers while others join), and shows no sign of it.
"""

from __future__ import annotations

from confluent_kafka import KafkaException
from faust.types import TP

from headwater_schemas.admin import Coordinator
from headwater_schemas.settings import KafkaSettings
from headwater_streams.transport.errors import kafka_error, translate

__all__ = ["Overdue"]

_ANSWER = 10.0  # seconds


class Overdue:
    """Asks the coordinator what it has given to this member. Keeps one connection of its own."""

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._group = group
        self._coordinator = Coordinator(kafka)

    def of(self, member: str, held: frozenset[TP]) -> frozenset[TP]:
        """What the member holds and should not any more. Blocks up to twenty seconds.

        Nothing, where the coordinator does not tell: of the classic protocol, and of a member that it does not know.

        Raises:
            HeadwaterError: no answer.
        """
        try:
            members = self._coordinator.members(self._group, _ANSWER)
        except KafkaException as exc:
            raise translate(kafka_error(exc), f"asking for the members of {self._group}") from exc
        for found in members:
            if found.member_id == member and found.target_assignment is not None:
                wanted = {TP(tp.topic, tp.partition) for tp in found.target_assignment.topic_partitions}
                return held - wanted
        return frozenset()
