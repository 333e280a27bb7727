"""The verdict: everything that the run left behind, against what it must have left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from faust.types import TP

from headwater_ops.demo.entities import BOARD, FLIGHT, Entities
from headwater_ops.demo.oracle import Difference, Expected, Oracle, differences
from headwater_ops.demo.poison import Poison
from headwater_ops.demo.topics import GROUP, REPORT
from headwater_schemas import wire
from headwater_schemas.settings import KafkaSettings
from headwater_streams.transport.log import Log
from headwater_tasks import TaskClient, TaskState

__all__ = ["Verdict"]

_TOGETHER = 1000


class Verdict:
    """Counts what it compares; keeps the first differences to show them.

    Args:
        most: how many differences are kept.
    """

    def __init__(self, *, most: int = 20) -> None:
        self.checks = 0
        self.count = 0
        self.first: list[Difference] = []
        self._most = most

    def flights(self, oracle: Oracle, entities: Entities) -> None:
        """Every flight, every field, as the cache serves it. Blocks."""
        self._compare(FLIGHT, oracle.flights(), entities)

    def boards(self, oracle: Oracle, entities: Entities) -> None:
        """Every airport's figures, as the cache serves them. Blocks."""
        self._compare(BOARD, iter(oracle.airports().items()), entities)

    def _compare(self, entity: str, expected: Iterator[tuple[str, Expected]], entities: Entities) -> None:
        view = entities.view(entity)
        while batch := list(islice(expected, _TOGETHER)):
            found = view.get_many([key for key, _ in batch])
            for key, state in batch:
                self.checks += len(state)
                self._add(differences(entity, key, state, found.get(key)))

    def dead_letters(self, planted: Sequence[Poison], kafka: KafkaSettings) -> int:
        """The dead letters, byte for byte and by reason, against the planted poison; gives their number. Blocks."""
        log = Log(kafka)
        topics = log.topics()
        dead = [name for name in topics if name.endswith(f".{GROUP}.dlt")]
        partitions = [TP(name, number) for name in dead for number in range(topics[name])]
        starts, ends = log.starts(partitions), log.ends(partitions)
        letters: dict[tuple[str, bytes], str] = {}
        count = 0
        for message in log.read({tp: (starts[tp], ends[tp]) for tp in partitions}):
            count += 1
            headers = dict(message.headers() or ())
            letters[_text(headers, wire.HW_ORIGINAL_TOPIC), message.value() or b""] = _text(headers, wire.HW_REASON)
        for record in planted:
            key = f"{record.topic} {record.key.decode()}"
            self.equal("dead letter", key, "reason", record.reason, letters.pop((record.topic, record.value), None))
        for topic, value in letters:
            self.equal("dead letter", topic, "value", None, value)
        self.equal("dead letter", "*", "count", len(planted), count)
        return count

    def tasks(self, oracle: Oracle, client: TaskClient) -> dict[str, int]:
        """One succeeded report per late flight; gives the reports by state. Blocks."""
        states: dict[str, int] = {}
        reported = []
        for task in _all(client):
            states[task.state] = states.get(task.state, 0) + 1
            reported.append(task.idempotency_key)
        wanted = set(oracle.delayed_flights())
        self.equal("task", REPORT, "flights", [], sorted(wanted ^ set(reported), key=str)[:5])
        self.equal("task", REPORT, "by state", {TaskState.SUCCEEDED: len(wanted)} if wanted else {}, states)
        return states

    def equal(self, entity: str, key: str, field: str, expected: object, found: object) -> None:
        """One more comparison."""
        self.checks += 1
        if expected != found:
            self._add([Difference(entity, key, field, expected, found)])

    def _add(self, found: Iterable[Difference]) -> None:
        for difference in found:
            self.count += 1
            if len(self.first) < self._most:
                self.first.append(difference)


def _all(client: TaskClient) -> Iterator[Any]:
    cursor = None
    while True:
        page = client.list(type=REPORT, cursor=cursor, limit=500)
        yield from page.tasks
        cursor = page.cursor
        if cursor is None:
            return


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return value.decode() if isinstance(value, bytes) else str(value)
