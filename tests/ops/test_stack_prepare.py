"""Servers of a prepared machine start from what earlier starts have learnt, and as well without."""

from __future__ import annotations

from pathlib import Path

import psutil

from backends.embedded import embedded
from headwater_ops.stack import Stack
from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.endpoints import cache_dir
from headwater_ops.stack.kafka import Broker
from headwater_ops.stack.prepare import prepare


def test_a_prepared_broker_starts_from_its_cache_and_its_log_has_nothing_of_it(tmp_path: Path) -> None:
    assert prepare()

    with embedded(tmp_path) as stack:
        stack.up("kafka")
        (broker,) = [part for part in stack.status() if part.name == "broker-1"]
        assert broker.pid is not None
        options = psutil.Process(broker.pid).cmdline()
        log = broker.log.read_text()

    assert f"-XX:AOTCache={AotCaches(cache_dir()).path(Broker.server())}" in options
    assert "[aot" not in log


def test_without_a_cache_servers_are_told_of_none(tmp_path: Path) -> None:
    assert AotCaches(tmp_path).flags("kafka-1.0") == ()


def test_what_a_server_writes_while_training_is_offered_once_it_is_whole(tmp_path: Path) -> None:
    training, caches = AotCaches(tmp_path, training=True), AotCaches(tmp_path)
    (option,) = training.flags("kafka-1.0")
    written = Path(option.removeprefix("-XX:AOTCacheOutput="))
    assert not training.keep("kafka-1.0")

    written.write_bytes(b"half")
    assert caches.flags("kafka-1.0") == ()
    assert training.keep("kafka-1.0")

    path = caches.path("kafka-1.0")
    assert path is not None
    assert path.read_bytes() == b"half"
    assert caches.flags("kafka-1.0")[0] == f"-XX:AOTCache={path}"


def test_nodes_that_copy_the_first_ones_format_have_identities_of_their_own(tmp_path: Path) -> None:
    def identity(stack: Stack) -> dict[str, str]:
        stack.up("kafka")
        stack.down()
        lines = (stack.state_dir / "stack" / "broker-1" / "data" / "meta.properties").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    with embedded(tmp_path / "1") as first, embedded(tmp_path / "2") as second:
        one, other = identity(first), identity(second)

    assert one["cluster.id"] != other["cluster.id"]
    assert one["directory.id"] != other["directory.id"]
    assert one["version"] == other["version"] == "1"
