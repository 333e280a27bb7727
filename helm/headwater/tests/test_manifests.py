"""What holds for every object that the chart renders, whatever the values."""

from __future__ import annotations

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import kubernetes_validate
import pytest
import yaml
from chart import CHART, KUBERNETES, Manifest, Render, pods, tool

OPERATORS = ("monitoring.coreos.com/", "keda.sh/")


def crdcheck(manifests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("crdcheck")], input=manifests, capture_output=True, text=True, timeout=60, check=False)


def test_helm_lint_finds_nothing(values_file: Path) -> None:
    command = [tool("helm"), "lint", "--strict", str(CHART), "--values", str(values_file)]
    linted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_object_fits_the_schemas_of_this_kubernetes_version(
    kubernetes: str, values_file: Path, render: Render
) -> None:
    rendered = render(values_file, kubernetes=kubernetes)
    assert rendered.returncode == 0, rendered.stderr
    objects = [document for document in yaml.safe_load_all(rendered.stdout) if document]
    core = [document for document in objects if not document["apiVersion"].startswith(OPERATORS)]

    assert len(core) > 5
    for document in core:
        kubernetes_validate.validate(document, kubernetes, strict=True)


def test_the_operators_objects_have_no_field_their_operator_does_not_know(render: Render) -> None:
    rendered = render(CHART / "ci" / "full-values.yaml").stdout
    checked = subprocess.run(
        [tool("crdcheck")], input=rendered, capture_output=True, text=True, timeout=60, check=False
    )

    assert checked.returncode == 0, checked.stdout
    kinds = {line.split()[1].split("/")[0] for line in checked.stdout.splitlines()}
    assert kinds == {"ServiceMonitor", "PrometheusRule", "ScaledObject"}


def test_a_misspelt_field_of_an_operators_object_is_found() -> None:
    wrong = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\nspec: {maxReplicas: 3}\n"
    checked = crdcheck(wrong)

    assert checked.returncode == 1
    assert "maxReplicas" in checked.stdout


def test_no_pod_runs_as_root_or_can_write_its_image_or_gain_privileges(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_no_pod_gets_a_kubernetes_token_or_service_links(manifests: list[Manifest]) -> None:
    """A link to a Service called headwater-api would be an unknown HEADWATER_* setting, which stops a worker."""
    for name, pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_every_container_requests_memory_and_cpu_and_has_a_memory_limit(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name


def test_every_long_running_container_has_three_probes(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                assert container["startupProbe"]["httpGet"]["path"] == "/livez"
                assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_network_policy_rule_never_names_an_empty_peer_list(manifests: list[Manifest]) -> None:
    """`from: []` and a missing `from` let everybody in: the opposite of what an empty list seems to say."""
    for manifest in manifests:
        if manifest["kind"] == "NetworkPolicy":
            for rule in manifest["spec"].get("ingress", []):
                assert rule.get("from"), manifest["metadata"]["name"]
            for rule in manifest["spec"].get("egress", []):
                assert rule.get("to", ["any"]), manifest["metadata"]["name"]


def test_the_default_deny_selects_every_pod(full: list[Manifest]) -> None:
    deny = next(m for m in full if m["kind"] == "NetworkPolicy" and m["metadata"]["name"].endswith("-deny"))
    selector = deny["spec"]["podSelector"]["matchLabels"].items()

    assert len(pods(full)) == 8
    for name, pod in pods(full):
        assert selector <= pod["metadata"]["labels"].items(), name


def test_every_selector_finds_exactly_one_workload(manifests: list[Manifest]) -> None:
    running = [(name, pod["metadata"]["labels"].items()) for name, pod in pods(manifests)]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            selector = spec["selector"]
        elif manifest["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            selector = spec["selector"]["matchLabels"]
        else:
            continue
        matched = [name for name, labels in running if selector.items() <= labels]
        assert len(matched) == 1, (manifest["kind"], manifest["metadata"]["name"], matched)


def test_every_scaler_points_at_a_workload_that_leaves_the_count_to_it(full: list[Manifest]) -> None:
    workloads = {m["metadata"]["name"]: m for m in full if m["kind"] == "StatefulSet"}
    scalers = [m for m in full if m["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]

    assert len(scalers) == 2
    for scaler in scalers:
        assert "replicas" not in workloads[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]


def test_every_service_and_probe_port_is_a_port_of_the_container(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert [port["targetPort"] for port in manifest["spec"]["ports"]] == ["http"]
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                assert [port["name"] for port in container["ports"]] == ["http"]


def test_the_service_monitor_selects_the_labels_of_every_service(full: list[Manifest]) -> None:
    monitor = next(m for m in full if m["kind"] == "ServiceMonitor")
    selector = monitor["spec"]["selector"]["matchLabels"].items()

    services = [m for m in full if m["kind"] == "Service"]
    assert len(services) == 5
    assert all(selector <= service["metadata"]["labels"].items() for service in services)


def test_every_volume_that_is_mounted_exists(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for name, pod in pods([manifest]):
            claims = manifest["spec"].get("volumeClaimTemplates", [])
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            volumes |= {claim["metadata"]["name"] for claim in claims}
            for container in pod["spec"]["containers"]:
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= volumes, name


def test_no_object_is_rendered_twice(manifests: list[Manifest]) -> None:
    identities = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]

    assert len(identities) == len(set(identities))


def test_a_name_prefix_that_would_have_to_be_cut_is_refused(render: Render) -> None:
    rendered = render(CHART / "ci" / "minimal-values.yaml", release="a-release-with-a-long-name")

    assert rendered.returncode != 0
    assert "has 36 characters and may have 30: set fullnameOverride" in rendered.stderr


def test_the_test_pod_waits_for_a_part_and_names_the_one_that_is_not_ready(full: list[Manifest]) -> None:
    answers = iter([503, 200])

    class Part(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(answers))
            self.end_headers()
            self.wfile.write(b"joining the group")

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    (container,) = next(pod for name, pod in pods(full) if name.startswith("Pod/"))["spec"]["containers"]
    script = container["command"][2].replace("+ 120", "+ 3")
    with HTTPServer(("127.0.0.1", 0), Part) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/readyz"
        ready = subprocess.run(
            [sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60, check=False
        )
        server.shutdown()
    gone = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60, check=False)

    assert (ready.returncode, ready.stdout) == (0, f"{url} 200\n"), ready.stderr
    assert gone.returncode == 1
    assert url in gone.stderr
