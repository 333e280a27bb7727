"""Kafka brokers in KRaft combined mode: each node is broker and controller."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.download import Downloads
from headwater_ops.stack.errors import StartFailed
from headwater_ops.stack.java import JVM_FLAGS, find_java
from headwater_ops.stack.lock import load_lock
from headwater_ops.stack.part import Part
from headwater_ops.stack.ports import HOST, is_listening

__all__ = ["Broker", "cluster_nodes", "new_id"]

_LOG4J = """\
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
# The whole configuration, three times per start.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


def new_id() -> str:
    """An id of a cluster or a folder as Kafka makes them: a random UUID in base64, not to be taken for an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if not text.startswith("-"):
            return text


def cluster_nodes(bootstrap: str, timeout: float) -> frozenset[int]:
    """Ids of the brokers that serve; empty when none answers within ``timeout`` seconds."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # A broker that is not up yet is expected, not worth a line. No callback in Python: a ^C that arrives while one runs
    # would be raised inside it, and lost.
    config: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "log_level": 0,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 100,
    }
    admin = AdminClient(config)
    try:
        return frozenset(admin.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return frozenset()


class Broker(Part):
    """One node.

    Args:
        controllers: the controller port of every node of the cluster.
        advertised: further listeners, by name, each with the port of this machine at which clients are told to find it:
            a proxy's, that forwards to ``ports`` of that name.
        properties: further broker properties; they win over ours.
    """

    service: ClassVar[str] = "kafka"
    listeners: ClassVar[Mapping[str, int]] = {"client": 9092, "controller": 9093}

    def __init__(
        self,
        node: int,
        folder: Path,
        ports: Mapping[str, int],
        *,
        cluster_id: str,
        controllers: Mapping[int, int],
        downloads: Downloads,
        aot: AotCaches,
        advertised: Mapping[str, int] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"broker-{node}", folder, ports)
        self.node = node
        self._cluster_id = cluster_id
        self._controllers = controllers
        self._downloads = downloads
        self._aot = aot
        self._advertised = dict(advertised or {})
        self._properties = dict(properties or {})

    @property
    def address(self) -> str:
        return f"{HOST}:{self.ports['client']}"

    def prepare(self) -> None:
        (self.folder / "log4j2.properties").write_text(_LOG4J)
        (self.folder / "server.properties").write_text(_properties(self._config()))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()

    def command(self) -> list[str]:
        java, *options = self._java()
        return [
            java,
            *self._aot.flags(self.server()),
            *options,
            "-Xms128m",
            "-Xmx512m",
            "kafka.Kafka",
            "server.properties",
        ]

    @classmethod
    def server(cls) -> str:
        """Name and version."""
        return f"kafka-{load_lock().kafka_version}"

    def is_ready(self) -> bool:
        return is_listening(self.ports["client"]) and self.node in cluster_nodes(self.address, 1.0)

    def _java(self) -> list[str]:
        jars = self._downloads.fetch(load_lock().kafka)
        return [
            str(find_java()),
            *JVM_FLAGS,
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-cp",
            ":".join(map(str, jars)),
        ]

    def _format(self) -> None:
        """What the first node of this machine was given holds the features of its version and nothing of its cluster:
        to copy it spares the next ones a JVM."""
        pattern = self._downloads.folder / f"{self.server()}.bootstrap.checkpoint"
        data = self.folder / "data"
        if pattern.exists():
            data.mkdir(exist_ok=True)
            shutil.copyfile(pattern, data / "bootstrap.checkpoint")
            identity = {"version": 1, "cluster.id": self._cluster_id, "node.id": self.node, "directory.id": new_id()}
            (data / "meta.properties").write_text(_properties(identity))
            return
        self._format_by_tool()
        partial = pattern.with_name(f"{pattern.name}.{uuid.uuid4().hex}")
        shutil.copyfile(data / "bootstrap.checkpoint", partial)
        partial.replace(pattern)

    def _format_by_tool(self) -> None:
        done = subprocess.run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", "server.properties"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartFailed(f"{self.name}: its storage could not be formatted: {done.stdout}{done.stderr}")

    def _config(self) -> dict[str, object]:
        replicas = min(3, len(self._controllers))
        client, controller = self.ports["client"], self.ports["controller"]
        listening = {"PLAINTEXT": client, "CONTROLLER": controller}
        listening |= {name.upper(): self.ports[name] for name in self._advertised}
        advertised = {"PLAINTEXT": client} | {name.upper(): port for name, port in self._advertised.items()}
        return {
            "process.roles": "broker,controller",
            "node.id": self.node,
            # A static quorum: controller ports may then change between two starts without touching the data.
            "controller.quorum.voters": ",".join(f"{n}@{HOST}:{p}" for n, p in sorted(self._controllers.items())),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listening),
            "listeners": _listeners(listening),
            "advertised.listeners": _listeners(advertised),
            "log.dirs": "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": min(2, replicas),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": min(2, replicas),
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": min(2, replicas),
            "share.coordinator.state.topic.num.partitions": 4,
            # Groups: join at once; quick heartbeats keep partitions of a KIP-848 rebalance from standing still.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "group.consumer.min.heartbeat.interval.ms": 100,
            "group.consumer.heartbeat.interval.ms": 300,
            "group.consumer.min.session.timeout.ms": 3000,
            "group.consumer.session.timeout.ms": 10000,
            # Frugal: one machine runs everything.
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 1,
            "background.threads": 2,
            "log.cleaner.threads": 1,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "log.segment.bytes": 128 << 20,
            # Clean, expire and delete soon, so that one can watch it: the defaults are minutes.
            "log.initial.task.delay.ms": 1000,
            "log.retention.check.interval.ms": 2000,
            "log.cleaner.backoff.ms": 1000,
            "log.segment.delete.delay.ms": 1000,
            # Notice a dead broker soon. Not sooner: a busy machine may starve a healthy one for seconds.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 5000,
            "replica.lag.time.max.ms": 10000,
            **self._properties,
        }


def _properties(entries: Mapping[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in entries.items())


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
