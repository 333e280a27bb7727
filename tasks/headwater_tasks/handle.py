"""What a client gives back: a submitted task, or some tasks of a list."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from headwater_producers import Delivery
from headwater_schemas.durations import Duration
from headwater_schemas.events import Task, TaskSubmitted
from headwater_tasks.state import pending

if TYPE_CHECKING:
    from headwater_tasks.client import TaskClient

__all__ = ["TaskHandle", "TaskPage"]


class TaskPage(NamedTuple):
    """Some tasks of a list. ``cursor`` continues behind them; ``None``: there are no more."""

    tasks: list[Task]
    cursor: str | None


class TaskHandle:
    """A submitted task. ``id`` is known at once; whether the log has it, ``accepted`` (or ``await``) tells."""

    __slots__ = ("_client", "_delivery", "_submitted", "id")

    def __init__(self, client: TaskClient, submitted: TaskSubmitted, delivery: Delivery) -> None:
        self.id = submitted.id
        self._client = client
        self._submitted = submitted
        self._delivery = delivery

    @property
    def task(self) -> Task:
        """The task as it was submitted."""
        partition, offset = self._delivery.partition, self._delivery.offset
        if partition is None or offset is None:
            return pending(self._submitted, -1, -1)
        return pending(self._submitted, partition, offset)

    def __repr__(self) -> str:
        return f"TaskHandle({self._submitted.type}, {self.id})"

    def accepted(self, timeout: float | None = 30.0) -> Self:
        """Wait until the task is on the log: from then on it will be run. Blocks; in a coroutine ``await`` the handle.

        Then ``get`` finds it, unless Redis does not answer now: the projection brings it later. With a producer that
        spools, a task is accepted on this machine's disk while the broker is away, and found when it is on the log.

        Args:
            timeout: seconds; ``None`` waits as long as the delivery timeout lets it take.

        Raises:
            DeliveryPending: not known in time; it may still arrive.
            BrokerUnavailable: Kafka did not take it in time.
        """
        self._delivery.result(timeout)
        if self._delivery.offset is not None:
            self._client.show(self.task)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """``accepted`` for asyncio."""
        yield from self._delivery.__await__()
        if self._delivery.offset is not None:
            yield from self._client.ashow(self.task).__await__()
        return self

    def get(self) -> Task | None:
        """What has become of it; see ``TaskClient.get``."""
        return self._client.get(self.id)

    async def aget(self) -> Task | None:
        """``get`` for asyncio."""
        return await self._client.aget(self.id)

    def wait(self, timeout: Duration) -> Task:
        """Wait until the task has ended; see ``TaskClient.wait``."""
        return self._client.wait(self.id, timeout)

    async def await_end(self, timeout: Duration) -> Task:
        """``wait`` for asyncio."""
        return await self._client.await_end(self.id, timeout)
