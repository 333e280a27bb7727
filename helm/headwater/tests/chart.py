"""The chart rendered by the real helm, and how its tests walk through what comes out."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Manifest: TypeAlias = dict[str, Any]
Render: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

REPOSITORY = Path(__file__).parents[3]
CHART = REPOSITORY / "helm" / "headwater"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
# The chart's lowest version, the oldest one that still gets fixes, and the newest whose schemas are to be had.
KUBERNETES = ("1.30.0", "1.35.0", "1.37.0")


def tool(name: str) -> str:
    """The path of a built tool; the test fails when it is missing, since skipping would prove nothing."""
    built = REPOSITORY / ".tools" / "bin" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: run `make test-helm`, which builds it")
    return found


@functools.cache
def template(release: str, kubernetes: str, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [tool("helm"), "template", release, str(CHART), "--kube-version", kubernetes, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def pods(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Every pod template (and bare pod) as its owner's name and ``{metadata, spec}``."""
    found = []
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            found.append((name, manifest))
        elif "template" in manifest.get("spec", {}):
            found.append((name, manifest["spec"]["template"]))
    return found
