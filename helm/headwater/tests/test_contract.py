"""The chart and the code say the same: settings, commands, versions, and the README that is made from the values."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, REPOSITORY, Manifest, pods

from headwater_schemas.settings import SETTINGS, Environment, KafkaSettings, RegistrySettings
from headwater_streams import StreamApp

KNOWN = {setting.name: setting for setting in SETTINGS}


def environment(pod: Manifest, manifests: list[Manifest]) -> dict[str, Any]:
    """The variables of the pod's container: text, or the ``valueFrom`` of an entry that has one."""
    (container,) = pod["spec"]["containers"]
    variables: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        name = source["configMapRef"]["name"]
        variables |= next(m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"] == name)
    entries = container.get("env", [])
    assert len({entry["name"] for entry in entries}) == len(entries), "a variable is set twice"
    return variables | {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def test_every_setting_that_the_chart_sets_exists(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        ours = {variable for variable in environment(pod, manifests) if variable.startswith("HEADWATER_")}
        assert ours <= KNOWN.keys(), name


def test_a_secret_setting_comes_from_a_secret_only(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        for variable, value in environment(pod, manifests).items():
            if variable in KNOWN and KNOWN[variable].secret:
                assert "secretKeyRef" in value, (name, variable)


def test_no_secret_setting_is_accepted_among_the_plain_ones() -> None:
    names = json.loads((CHART / "values.schema.json").read_text())["$defs"]["settings"]["propertyNames"]
    refused = names["not"]["anyOf"]
    listed = set(refused[0]["enum"])

    for setting in SETTINGS:
        if setting.secret:
            patterns = ("HEADWATER_KAFKA_SECURITY_", "PASSWORD", "SECRET")
            assert setting.name in listed or any(pattern in setting.name for pattern in patterns), setting.name
    assert listed <= KNOWN.keys()


def test_the_code_accepts_the_settings_that_the_chart_gives(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        variables = environment(pod, manifests)
        if "HEADWATER_KAFKA_BOOTSTRAP" in variables:
            env = Environment({name: value if isinstance(value, str) else "x" for name, value in variables.items()})
            KafkaSettings.from_env(env)
            RegistrySettings.from_env(env)


def test_faust_puts_its_folder_where_the_chart_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATADIR", "/var/lib/headwater/faust")

    assert StreamApp("billing").conf.datadir == Path("/var/lib/headwater/faust")


@pytest.mark.parametrize("command", ["worker", "api", "lag", "outbox relay", "topics apply", "schemas check"])
def test_every_command_that_a_pod_runs_exists(command: str) -> None:
    asked = [sys.executable, "-m", "headwater_ops.cli", *command.split(), "--help"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)

    assert answer.returncode == 0, answer.stderr


def test_the_pods_run_no_other_commands(full: list[Manifest]) -> None:
    commands = {" ".join(pod["spec"]["containers"][0]["command"]) for name, pod in pods(full) if "test" not in name}

    assert commands == {
        "headwater worker flights.app:app",
        "headwater worker invoices:app",
        "headwater api",
        "headwater lag --serve",
        "headwater outbox relay",
        "headwater topics apply --register",
        "headwater schemas check --registry",
    }


def test_the_app_version_is_the_version_of_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "ops" / "pyproject.toml").read_text())["project"]

    assert chart["appVersion"] == project["version"]


def test_the_readme_is_what_the_values_and_their_schema_say() -> None:
    script = REPOSITORY / "docs" / "hooks" / "chart.py"
    made = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)

    assert (CHART / "README.md").read_text() == made.stdout, "run `make chart-readme`"
