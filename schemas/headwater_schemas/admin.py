"""Kafka's admin client, told at once when the brokers will not have us: librdkafka itself goes on trying."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headwater_schemas.errors import NotPermitted, SettingError, UsageError
from headwater_schemas.settings import KafkaSettings

__all__ = ["Admin", "Coordinator", "refusal"]

# What is asked of a group's coordinator must not time out within librdkafka, which takes no more than an hour: 2.16
# aborts the process when such a request has timed out and the coordinator answers after all
# (confluentinc/librdkafka#4605).
_COORDINATOR_PATIENCE: Final = 3600.0

_FIRST_SLICE: Final = 0.5
_AWAY: Final = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN})
_CREDENTIALS: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})


def refusal(error: KafkaError) -> UsageError | None:
    """The error of ours when waiting cannot help: wrong credentials, or a certificate that is not trusted.

    ``None`` for all else, a handshake that a restarting broker breaks off included.
    """
    if error.code() in _CREDENTIALS:
        return NotPermitted(
            f"the broker refuses our credentials: {error.str()}; correct HEADWATER_KAFKA_SECURITY_USERNAME, _PASSWORD "
            "and _MECHANISM, or create the user on the brokers"
        )
    if "certificate verify failed" in error.str():  # comes as _SSL, and as _TRANSPORT when the connection ends first
        return SettingError(
            f"the broker's certificate is not trusted: {error.str()}; name the certificates (PEM) that signed it in "
            "HEADWATER_KAFKA_SECURITY_CA, and reach the broker by a name that its certificate holds"
        )
    return None


class Admin(AdminClient):
    """An admin client of these settings. Does not connect yet.

    Ask coordinators by ``groups`` and ``group_offsets`` alone, and wait for their futures as long as you like.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self.refused: UsageError | None = None
        config: dict[str, Any] = {**kafka.client_config(), "error_cb": self._hear}
        super().__init__(config)

    def cluster(self, timeout: float) -> Any:
        """The cluster's brokers and topics. Blocks up to ``timeout`` seconds.

        Raises:
            UsageError: NotPermitted, SettingError: see ``refusal``.
            KafkaException: no answer in time.
        """
        deadline = time.monotonic() + timeout
        patience = _FIRST_SLICE
        while True:
            left = deadline - time.monotonic()
            try:
                return self.list_topics(timeout=max(0.0, min(patience, left)))
            except KafkaException as exc:
                self.poll(0)  # hands over the errors of the connections
                if self.refused is not None:
                    raise self.refused from exc
                if left <= patience or exc.args[0].code() not in _AWAY:
                    raise
            patience *= 2

    def groups(self, names: Sequence[str]) -> dict[str, Future[Any]]:
        """The description of each group, as its coordinator tells it. Returns at once."""
        described: dict[str, Future[Any]] = self.describe_consumer_groups(
            list(names), request_timeout=_COORDINATOR_PATIENCE
        )
        return described

    def group_offsets(self, group: str, partitions: Sequence[TopicPartition] | None = None) -> Future[Any]:
        """What a group has committed, of some partitions or of all. Returns at once."""
        asked = [ConsumerGroupTopicPartitions(group, None if partitions is None else list(partitions))]
        found: Future[Any] = self.list_consumer_group_offsets(asked, request_timeout=_COORDINATOR_PATIENCE)[group]
        return found

    def _hear(self, error: KafkaError) -> None:
        self.refused = refusal(error)


class Coordinator:
    """Asks for the members of groups. Keeps a connection of its own as long as it is answered.

    What is not answered is let go together with its client: it may stay without an answer even after the coordinator is
    back.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._admin: Admin | None = None

    def members(self, group: str, timeout: float) -> Any:
        """The members of a group, as its coordinator tells them. Blocks up to twice ``timeout`` seconds.

        Raises:
            KafkaException: no answer in time.
        """
        admin, self._admin = self._admin or Admin(self._kafka), None
        admin.list_topics("__consumer_offsets", timeout=timeout)  # only brokers that answer are asked
        try:
            members = admin.groups([group])[group].result(timeout).members
        except TimeoutError as exc:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from exc
        self._admin = admin
        return members
