"""The alert rules: complete, about metrics that exist, with a runbook and a promtool test for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

import pytest
import yaml
from chart import CHART, REPOSITORY

RULES = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
TESTS = [
    test for path in (CHART / "tests").glob("*.promtool.yaml") for test in yaml.safe_load(path.read_text())["tests"]
]
RUNBOOKS = (REPOSITORY / "docs" / "runbooks.md").read_text()
MODULES = (
    "headwater_schemas.metrics",
    "headwater_producers.metrics",
    "headwater_cache.metrics",
    "headwater_streams.metrics",
    "headwater_streams.loop_metrics",
    "headwater_streams.idempotency.marks",
    "headwater_tasks.metrics",
    "headwater_ops.lag.collector",
)


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_waits_has_a_severity_a_summary_and_a_runbook(rule: dict[str, Any]) -> None:
    assert "for" in rule
    assert rule["labels"]["severity"] in ("page", "warn", "none")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in RUNBOOKS


def test_every_runbook_belongs_to_an_alert() -> None:
    assert sorted(re.findall(r"^### (\w+)$", RUNBOOKS, re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_every_alert_is_tested_firing_and_quiet(name: str) -> None:
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    fired = {alert["exp_labels"]["severity"] for case in cases for alert in case["exp_alerts"]}

    assert fired == {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
    assert any(not case["exp_alerts"] for case in cases)


def test_the_rules_ask_for_metrics_that_the_code_exports() -> None:
    exported = {metric for name in MODULES for metric in get_args(import_module(name).MetricName)}
    asked = {name for rule in rules() for name in re.findall(r"(?<![\w:])headwater_\w+(?!\w*:)", rule["expr"])}

    assert asked
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= exported
