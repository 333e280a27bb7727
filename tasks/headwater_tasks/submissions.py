"""A submission as it stands on the log: where the payload of a task is, as long as the topic keeps it."""

from __future__ import annotations

from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headwater_schemas.codec import Codec
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.events import Task, TaskSubmitted
from headwater_schemas.settings import KafkaSettings
from headwater_tasks.changes import TASKS
from headwater_tasks.errors import TaskNotFound

__all__ = ["read_submission"]

_PATIENCE: Final = 10.0


def read_submission(kafka: KafkaSettings, codec: Codec, task: Task) -> TaskSubmitted:
    """The submission of ``task``. Blocks for a connection of its own, some tens of milliseconds; commits nothing.

    Raises:
        TaskNotFound: the topic no longer keeps it.
        BrokerUnavailable: Kafka does not answer.
    """
    client = Consumer(
        {
            **kafka.client_config(),
            "group.id": "headwater-submissions",  # librdkafka wants one; nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
    )
    try:
        client.assign([TopicPartition(TASKS, task.partition, task.offset)])
        message = client.poll(_PATIENCE)
    except KafkaException as exc:
        raise BrokerUnavailable(f"the submission of task {task.id} cannot be read: {exc}") from exc
    finally:
        client.close()
    if message is None:
        raise BrokerUnavailable(f"the submission of task {task.id} could not be read in {_PATIENCE:.0f} s")
    submission = None if message.error() is not None else codec.decoder(TASKS, TaskSubmitted)(_bytes(message.value()))
    if submission is None or submission.id != task.id:
        raise TaskNotFound(f"the submission of task {task.id} is no longer on the log: submit it anew")
    return submission


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
