"""The manifests: against Kubernetes' own schemas, and that they fit each other and the run file. No cluster runs here."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.conftest import DEPLOY, documents
from zowarmup.common.settings.run import Server
from zowarmup.server.setup.run_file import read_run_file

KUBERNETES = DEPLOY / "kubernetes"
MANIFESTS = sorted(
    path for path in KUBERNETES.glob("*.yaml") if path.name not in ("kustomization.yaml", "podmonitor.yaml")
)
SHARDS = 24


@pytest.fixture(scope="module")
def everything() -> list[Any]:
    return [document for path in sorted(KUBERNETES.glob("*.yaml")) for document in documents(path)]


def of(everything: list[Any], kind: str) -> list[Any]:
    return [document for document in everything if document["kind"] == kind]


@pytest.mark.parametrize("version", ["1.31.0", "1.37.0"])
def test_kubernetes_knows_every_field(version: str, tool: Callable[[str], str], tmp_path: Path) -> None:
    command = [tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, *map(str, MANIFESTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text((KUBERNETES / "server.yaml").read_text().replace("failureThreshold", "failureTreshold"))
    assert subprocess.run([*command[:4], str(misspelt)], capture_output=True, check=False).returncode != 0


def test_the_pod_monitor_has_the_operators_form(tool: Callable[[str], str]) -> None:
    schema = Path(__file__).parent / "podmonitor.schema.json"
    command = [tool("check-jsonschema"), "--schemafile", str(schema), str(KUBERNETES / "podmonitor.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_kustomization_has_it_all(everything: list[Any]) -> None:
    (kustomization,) = of(everything, "Kustomization")
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    (generated,) = kustomization["configMapGenerator"]
    assert all((KUBERNETES / file).exists() for file in generated["files"])
    used = {c["image"].partition(":")[0] for s in of(everything, "StatefulSet") for c in containers(s)}
    assert {image["name"] for image in kustomization["images"]} == used
    (server,) = [s for s in of(everything, "StatefulSet") if s["metadata"]["name"] == "zowarmup-server"]
    volumes = {volume["name"]: volume for volume in server["spec"]["template"]["spec"]["volumes"]}
    assert volumes["run"]["configMap"]["name"] == generated["name"]
    assert all(d["metadata"].get("namespace", "zowarmup") == "zowarmup" for d in everything if "metadata" in d)


def containers(stateful_set: Any) -> list[Any]:
    found: list[Any] = stateful_set["spec"]["template"]["spec"]["containers"]
    return found


def test_ports_are_those_of_the_run_file(everything: list[Any]) -> None:
    run: Server = read_run_file(KUBERNETES / "run.toml").server
    ports = {
        name: int(address.rpartition(":")[2])
        for name, address in (("grpc", run.address), ("health", run.health_address), ("metrics", run.metrics_address))
    }
    (server,) = [s for s in of(everything, "StatefulSet") if s["metadata"]["name"] == "zowarmup-server"]
    (container,) = containers(server)
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": ports["health"]}
    service = next(s for s in of(everything, "Service") if s["metadata"]["name"] == "zowarmup")
    assert [(p["port"], p["targetPort"]) for p in service["spec"]["ports"]] == [(ports["grpc"], "grpc")]
    (monitor,) = of(everything, "PodMonitor")
    assert [e["port"] for e in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert run.tls_certificate and not run.metrics_plaintext, "the monitor asks by HTTPS"


def test_only_what_must_may_speak(everything: list[Any]) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of(everything, "NetworkPolicy")}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    components = {
        s["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for s in of(everything, "StatefulSet")
    }
    assert components == {"server", "client-low", "client-high"}
    opened = {port["port"] for rule in policies["server"]["ingress"] for port in rule["ports"]}
    assert opened == {"grpc", "health", "metrics"}
    assert [rule["ports"] for rule in policies["server"]["ingress"] if "from" not in rule] == [[{"port": "health"}]]
    (callers,) = policies["clients"]["podSelector"]["matchExpressions"]
    assert set(callers["values"]) == components - {"server"}


def test_nobody_has_privileges_and_memory_is_bounded(everything: list[Any]) -> None:
    """What the namespace enforces, the pod security standard `restricted`, and read-only besides."""
    for stateful_set in of(everything, "StatefulSet"):
        pod = stateful_set["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
    low = next(s for s in of(everything, "StatefulSet") if s["metadata"]["name"] == "zowarmup-client-low")
    assert containers(low)[0]["resources"]["limits"]["memory"] == "200Mi"


def test_every_client_has_a_shard_and_the_invitation_of_its_tier(everything: list[Any]) -> None:
    first = {}
    for tier in ("high", "low"):
        stateful_set = next(
            s for s in of(everything, "StatefulSet") if s["metadata"]["name"] == f"zowarmup-client-{tier}"
        )
        (container,) = containers(stateful_set)
        assert {f"--tier={tier}", f"--join-file=/join/{tier}", f"--data=digits:$(NUMBER)/{SHARDS}"} <= set(
            container["args"]
        )
        (number,) = container["env"]
        assert number["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
        first[tier] = stateful_set["spec"]["ordinals"]["start"]
        assert 1 <= first[tier] <= first[tier] + stateful_set["spec"]["replicas"] - 1 <= SHARDS
    assert first["high"] < first["low"]


def test_the_readme_makes_the_secrets_that_are_mounted(everything: list[Any]) -> None:
    readme = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    text = json.dumps(everything)
    for secret in ("zowarmup-certs", "zowarmup-join"):
        assert f"create secret generic {secret}" in readme
        assert f'"secretName": "{secret}"' in text
    assert all(f"certs/{file}" in readme for file in ("ca.crt", "server.crt", "server.key"))
    for service in of(everything, "StatefulSet"):
        assert any(s["metadata"]["name"] == service["spec"]["serviceName"] for s in of(everything, "Service"))
