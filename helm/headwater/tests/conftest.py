"""Fixtures of the chart's tests: the chart rendered once per values file and Kubernetes version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from chart import CHART, KUBERNETES, VALUES, Manifest, Render, template


@pytest.fixture(scope="session")
def render() -> Render:
    """Run `helm template` and give what it printed: ``render(values_file, *arguments)``."""

    def run(
        values: Path, *arguments: str, release: str = "prod", kubernetes: str = KUBERNETES[-1]
    ) -> subprocess.CompletedProcess[str]:
        return template(release, kubernetes, ("--values", str(values), *arguments))

    return run


@pytest.fixture(scope="session", params=VALUES, ids=lambda path: path.stem)
def values_file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="session")
def manifests(render: Render, values_file: Path) -> list[Manifest]:
    """Every object that the values file renders."""
    rendered = render(values_file)
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


@pytest.fixture(scope="session")
def full(render: Render) -> list[Manifest]:
    """Every object of the largest values file."""
    rendered = render(CHART / "ci" / "full-values.yaml")
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]
