"""Which table changelogs are ours: those whose partition numbers are. The broker's range assignor decides.

Faust's own assignor runs inside its client and needs a Python group protocol. Here the changelog topics are subscribed
like any other, and range gives equal partition numbers of equally partitioned topics to one member, so a table's
changelog follows its source. Not offered, since no assignor on the broker can know of them: standby replicas
(``table_standby_replicas``) and global tables, whose changelogs every worker would have to read in full.
"""

from __future__ import annotations

from typing import Any

from faust.types import TP, AppT

__all__ = ["BrokerAssigned"]


class BrokerAssigned:
    """What Faust's table recovery and router ask of an assignor."""

    def __init__(self, app: AppT, replicas: int = 0) -> None:
        self.app = app
        self.replicas = replicas

    def assigned_actives(self) -> set[TP]:
        """Every partition that is ours; recovery picks the changelogs among them."""
        return set(self.app.consumer.assignment())

    def assigned_standbys(self) -> set[TP]:
        """None: see the module's docstring."""
        return set()

    def is_active(self, tp: TP) -> bool:
        return tp in self.app.consumer.assignment()

    def is_standby(self, tp: TP) -> bool:
        return False

    def group_for_topic(self, topic: str) -> int:
        """Transactions by topic group: all topics share one."""
        return 0

    def key_store(self, topic: str, key: bytes) -> Any:
        """Where a table key lives. Only our own partitions are known; see the module's docstring."""
        return self.app.conf.canonical_url

    def table_metadata(self, topic: str) -> dict[str, dict[str, list[int]]]:
        partitions = sorted(tp.partition for tp in self.assigned_actives() if tp.topic == topic)
        return {str(self.app.conf.canonical_url): {topic: partitions}}

    def tables_metadata(self) -> dict[str, dict[str, list[int]]]:
        topics: dict[str, list[int]] = {}
        for tp in sorted(self.assigned_actives()):
            topics.setdefault(tp.topic, []).append(tp.partition)
        return {str(self.app.conf.canonical_url): topics}
