"""The doctor names what is wrong and what to do, one finding per fault."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis

from headwater_ops.doctor.examination import examine
from headwater_ops.doctor.finding import Finding
from headwater_ops.doctor.kafka import check_kafka
from headwater_ops.doctor.machine import check_machine
from headwater_ops.doctor.redis import check_redis
from headwater_ops.doctor.registry import check_registry
from headwater_ops.doctor.settings import check_settings
from headwater_ops.stack import Endpoints
from headwater_ops.stack.ports import HOST
from headwater_schemas.settings import Environment


def failures(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.detail for finding in findings if finding.status == "fail"}


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server((HOST, 0)) as server:
        return f"{HOST}:{server.getsockname()[1]}"


def test_every_unknown_name_is_told() -> None:
    findings = list(check_settings({"HEADWATER_REDIS_URI": "x", "HEADWATER_REGISTY_URL": "y", "PATH": "/bin"}))

    assert [finding.detail for finding in findings] == [
        "unknown setting HEADWATER_REDIS_URI: did you mean HEADWATER_REDIS_URL?",
        "unknown setting HEADWATER_REGISTY_URL: did you mean HEADWATER_REGISTRY_URL?",
    ]


def test_an_unknown_name_does_not_hide_a_malformed_value() -> None:
    findings = list(check_settings({"HEADWATER_REDIS_URI": "x", "HEADWATER_REDIS_TIMEOUT": "soon"}))

    assert len(findings) == 2
    assert findings[1].detail.startswith("HEADWATER_REDIS_TIMEOUT: 'soon' is not a duration")


def test_malformed_values_of_several_packages_are_all_told() -> None:
    values = {"HEADWATER_REGISTRY_URL": "registry:8081", "HEADWATER_KAFKA_SECURITY_PROTOCOL": "TLS"}

    findings = list(check_settings(values))

    assert [finding.status for finding in findings] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_WORKER_DRAIN", "soon"),
        ("HEADWATER_PRODUCER_QUEUE_RECORDS", "many"),
        ("HEADWATER_API_HTTP", "8080"),
        ("HEADWATER_REDIS_TIMEOUT", "1h"),
    ],
)
def test_a_malformed_value_is_told_once(name: str, value: str) -> None:
    (finding,) = check_settings({name: value})

    assert finding.status == "fail"
    assert name in finding.detail


def test_a_secret_is_not_shown() -> None:
    values = {"HEADWATER_REDIS_URL": "redis://:hunter2@localhost:6379/0", "HEADWATER_REGISTRY_PASSWORD": "hunter2"}

    assert "hunter2" not in str(list(check_settings(values)))


def test_unreachable_servers_are_told_with_what_to_do(nobody: str, tmp_path: Path) -> None:
    findings = examine(
        {
            "HEADWATER_KAFKA_BOOTSTRAP": nobody,
            "HEADWATER_REDIS_URL": f"redis://:hunter2@{nobody}/0",
            "HEADWATER_REGISTRY_URL": f"http://{nobody}/apis/ccompat/v7",
            "HEADWATER_STATE_DIR": str(tmp_path),
        }
    )

    assert failures(findings).keys() == {"kafka", "redis", "registry"}
    assert failures(findings)["kafka"] == f"nobody accepts a connection at {nobody}"
    assert all("headwater up" in (finding.advice or "") for finding in findings if finding.status == "fail")
    assert "hunter2" not in str(findings)


def test_a_malformed_setting_does_not_stop_the_other_checks(nobody: str, tmp_path: Path) -> None:
    findings = examine(
        {
            "HEADWATER_REDIS_TIMEOUT": "soon",
            "HEADWATER_KAFKA_BOOTSTRAP": nobody,
            "HEADWATER_REGISTRY_URL": f"http://{nobody}",
            "HEADWATER_STATE_DIR": str(tmp_path),
        }
    )

    assert failures(findings).keys() == {"settings", "kafka", "registry"}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    findings = list(check_machine(Environment({"HEADWATER_STATE_DIR": str(tmp_path / "file")})))

    assert failures(findings) == {"disk": f"{tmp_path / 'file'} cannot be written"}


def test_a_sound_stack_has_no_fault(env: Environment) -> None:
    findings = [*check_kafka(env), *check_registry(env), *check_redis(env)]

    assert failures(findings) == {}
    by_check = {finding.check: finding for finding in findings}
    assert by_check["consumer protocol"].status == "ok"
    assert by_check["redis scripts"].status == "ok"
    assert by_check["redis eviction"].status == "ok"
    assert by_check["clock"].status == "ok"
    assert by_check["durability"].status == "warn"  # one broker


def test_a_redis_that_evicts_is_told(endpoints: Endpoints, env: Environment) -> None:
    with redis.Redis.from_url(endpoints.redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            findings = list(check_redis(env))
        finally:
            client.config_set("maxmemory-policy", "noeviction")

    assert "allkeys-lru" in failures(findings)["redis eviction"]
