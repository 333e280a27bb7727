"""What the page on deploying tells to write renders, and fits together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from chart import CHART, REPOSITORY, Render, pods

from headwater_ops.worker import load

PAGE = (REPOSITORY / "docs" / "deploy.md").read_text()
(VALUES,) = re.findall(r'^```yaml title="values.yaml"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "values.yaml"


def test_the_values_of_the_page_render_with_the_contracts_where_the_image_has_them(render: Render, file: Path) -> None:
    file.write_text(VALUES)
    rendered = render(file)

    assert rendered.returncode == 0, rendered.stderr
    folder = yaml.safe_load(VALUES)["settings"]["HEADWATER_CONTRACTS"]
    assert f"COPY topics.toml {folder}/\n" in PAGE
    assert f"COPY contracts {folder}/contracts\n" in PAGE
    jobs = [
        pod for name, pod in pods(list(filter(None, yaml.safe_load_all(rendered.stdout)))) if name.startswith("Job/")
    ]
    assert len(jobs) == 2
    for job in jobs:
        assert {"name": "HEADWATER_CONTRACTS", "value": folder} in job["spec"]["containers"][0]["env"]


def test_the_page_runs_an_app_of_ours_under_the_group_whose_lag_it_shows() -> None:
    values = yaml.safe_load(VALUES)
    (ours,) = (group["app"] for group in values["workers"].values() if group["app"].startswith("headwater"))

    assert load(ours).conf.id in values["lag"]["groups"]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_further_example_of_the_page_renders(snippet: str, render: Render, file: Path) -> None:
    file.write_text(snippet)
    rendered = render(CHART / "ci" / "minimal-values.yaml", "--values", str(file))

    assert rendered.returncode == 0, rendered.stderr
