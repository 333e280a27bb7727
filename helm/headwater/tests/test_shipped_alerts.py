"""The alert rules as the chart ships them."""

from __future__ import annotations

from typing import Any

import yaml
from chart import CHART, Render

RULES = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def shipped(render: Render, *arguments: str) -> Any:
    """The rules that the largest values file renders."""
    rendered = render(CHART / "ci" / "full-values.yaml", *arguments).stdout
    (found,) = (
        document for document in yaml.safe_load_all(rendered) if document and document["kind"] == "PrometheusRule"
    )
    return found["spec"]


def alerts(spec: Any) -> list[dict[str, Any]]:
    return [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]


def test_the_chart_ships_the_tested_rules_as_they_are(render: Render) -> None:
    assert shipped(render) == RULES


def test_the_runbooks_can_be_anywhere(render: Render) -> None:
    site = "https://docs.example.com/headwater/runbooks/"

    urls = {rule["annotations"]["runbook_url"] for rule in alerts(shipped(render, "--set", f"metrics.runbooks={site}"))}

    assert urls == {f"{site}#{rule['alert'].lower()}" for rule in alerts(RULES)}
