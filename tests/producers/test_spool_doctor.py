"""``headwater doctor`` shows what waits in a spool, whoever holds it, and touches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater_ops.doctor.finding import Finding
from headwater_ops.doctor.spool import check_spool
from headwater_producers import Spool
from headwater_producers.spool import look_into
from headwater_schemas.settings import Environment
from producers.orders import NOWHERE, MakeProducer, order


def examined(folder: Path, limit: int = 2**20) -> list[Finding]:
    values = {
        "HEADWATER_KAFKA_BOOTSTRAP": NOWHERE,
        "HEADWATER_PRODUCER_BACK_PRESSURE": "spool",
        "HEADWATER_PRODUCER_SPOOL_DIR": str(folder),
        "HEADWATER_PRODUCER_SPOOL_BYTES": str(limit),
    }
    return list(check_spool(Environment(values)))


def test_without_a_spool_there_is_nothing_to_say() -> None:
    assert list(check_spool(Environment({"HEADWATER_KAFKA_BOOTSTRAP": NOWHERE}))) == []


def test_a_folder_that_is_not_there_yet_is_an_empty_spool(tmp_path: Path) -> None:
    [finding] = examined(tmp_path / "spool")
    assert (finding.status, finding.detail) == ("ok", f"{tmp_path / 'spool'}: empty")
    assert not (tmp_path / "spool").exists()


def test_what_waits_is_shown_while_the_producer_runs_and_afterwards(
    topic_name: str, make_producer: MakeProducer, tmp_path: Path
) -> None:
    producer = make_producer(NOWHERE, back_pressure=Spool(tmp_path, after=0.2))
    for number in range(100):
        producer.emit(topic_name, order(number, note="x" * 1000))
    producer.flush(20)

    [while_it_runs] = examined(tmp_path)
    assert while_it_runs.status == "warn"
    assert "0.1 MiB in 1 slots, since " in while_it_runs.detail
    assert "a producer runs on this folder" in str(while_it_runs.advice)
    producer.close(0)
    [afterwards] = examined(tmp_path)
    assert afterwards.status == "warn"
    [slot] = look_into(tmp_path)
    assert 100_000 < slot.size < 200_000
    assert (slot.path, slot.rejected) == (tmp_path / "0000", 0)


def test_a_spool_that_is_nearly_full_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "0000").mkdir()
    (tmp_path / "0000" / "0.log").write_bytes(b"x" * 700_000)
    [finding] = examined(tmp_path)
    assert (finding.status, finding.detail.rpartition(", ")[2]) == ("fail", "the fullest at 67% of its limit")


def test_what_kafka_refused_is_told(tmp_path: Path) -> None:
    (tmp_path / "0000" / "rejected").mkdir(parents=True)
    (tmp_path / "0000" / "rejected" / "0.log").write_bytes(b"x" * 200_000)
    [finding] = examined(tmp_path)
    assert finding.status == "warn"
    assert "0.2 MiB in " in finding.detail
    assert "refused by Kafka" in finding.detail


def test_a_disk_with_less_room_than_the_limit_is_told(tmp_path: Path) -> None:
    findings = examined(tmp_path, limit=2**60)
    assert [finding.status for finding in findings] == ["ok", "warn"]
    assert "less than HEADWATER_PRODUCER_SPOOL_BYTES" in findings[1].detail


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_a_failure(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    [finding] = examined(tmp_path / place)
    assert finding.status == "fail"
    assert "cannot be written" in finding.detail
