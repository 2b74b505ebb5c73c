"""Several coordinators over PostgreSQL, as Kubernetes and compose would start them: their form, that their parts fit each other and what
stands beside them for one, and compose's commands as processes. No cluster and no container runs here."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.conftest import DEPLOY, documents
from tests.e2e.conftest import wait_until
from tests.postgres.server import PostgresServer
from zowarmup.common.settings.run import RunFile
from zowarmup.lab.processes import free_port
from zowarmup.server.setup.run_file import read_run_file

KUBERNETES = DEPLOY / "kubernetes-several"
COMPOSE = DEPLOY / "compose.several.yaml"
COORDINATORS = ("server", "server-2", "server-3")


def only(found: list[Any], kind: str, name: str = "") -> Any:
    (one,) = [d for d in found if d["kind"] == kind and name in ("", d["metadata"]["name"])]
    return one


@pytest.fixture(scope="module")
def manifests() -> list[Any]:
    return documents(KUBERNETES / "coordinators.yaml") + documents(KUBERNETES / "networkpolicy.yaml")


def test_a_run_is_the_same_but_for_its_section_server() -> None:
    for several, one in (
        (KUBERNETES / "run.toml", DEPLOY / "kubernetes/run.toml"),
        (DEPLOY / "compose.several.run.toml", DEPLOY / "compose.run.toml"),
    ):
        shared, alone = read_run_file(several), read_run_file(one)
        assert shared.server.store and not alone.server.store
        assert [getattr(shared, part) == getattr(alone, part) for part in RunFile.__annotations__ if part != "server"]
        listening = ("address", "tls_certificate", "tls_key", "health_address", "metrics_address", "metrics_plaintext")
        assert all(getattr(shared.server, name) == getattr(alone.server, name) for name in listening)


def judged(tool: Callable[[str], str], version: str, *files: Path) -> "subprocess.CompletedProcess[str]":
    command = [tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["1.31.0", "1.37.0"])
def test_kubernetes_knows_every_field(version: str, tool: Callable[[str], str], tmp_path: Path) -> None:
    done = judged(tool, version, KUBERNETES / "coordinators.yaml", KUBERNETES / "networkpolicy.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text((KUBERNETES / "coordinators.yaml").read_text().replace("maxUnavailable", "maxUnavailible"))
    assert judged(tool, version, misspelt).returncode != 0


def test_kustomize_puts_them_in_the_place_of_the_one(tool: Callable[[str], str], tmp_path: Path) -> None:
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed here")
    made = subprocess.run([kubectl, "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = list(yaml.safe_load_all(made.stdout))
    sets = {d["metadata"]["name"]: d for d in found if d["kind"] == "StatefulSet"}
    assert set(sets) == {"zowarmup-coordinator", "zowarmup-client-low", "zowarmup-client-high"}
    config = only(found, "ConfigMap")
    assert config["data"] == {"run.toml": (KUBERNETES / "run.toml").read_text(encoding="utf-8")}
    volumes = sets["zowarmup-coordinator"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "run", "configMap": {"name": config["metadata"]["name"]}} in volumes
    assert only(found, "Service", "zowarmup")["spec"]["clusterIP"] == "None", "the name has all their addresses"
    rest = tmp_path / "made.yaml"
    rest.write_text(yaml.safe_dump_all(d for d in found if d["kind"] != "PodMonitor"))
    done = judged(tool, "1.37.0", rest)
    assert done.returncode == 0, done.stdout + done.stderr


def test_coordinators_fit_what_stands_beside_them(manifests: list[Any]) -> None:
    kept, run = only(manifests, "StatefulSet"), read_run_file(KUBERNETES / "run.toml").server
    pod, labels = kept["spec"]["template"]["spec"], kept["spec"]["selector"]["matchLabels"]
    (container,) = pod["containers"]
    (one,) = [s for s in documents(DEPLOY / "kubernetes/server.yaml") if s["kind"] == "StatefulSet"]
    alone = one["spec"]["template"]["spec"]
    assert labels == one["spec"]["selector"]["matchLabels"], "which clients' policy, the monitor and the service name"
    for name in ("automountServiceAccountToken", "securityContext", "terminationGracePeriodSeconds"):
        assert pod[name] == alone[name]
    for name in ("image", "ports", "securityContext", "resources"):
        assert container[name] == alone["containers"][0][name]
    health = {"port": int(run.health_address.rpartition(":")[2])}
    assert all(container[probe]["grpc"] == health for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    for owner in (only(manifests, "PodDisruptionBudget"), *pod["topologySpreadConstraints"]):
        assert owner.get("labelSelector", owner.get("spec", {}).get("selector")) == {"matchLabels": labels}
    peers = only(manifests, "Service")
    assert peers["metadata"]["name"] == kept["spec"]["serviceName"]
    assert peers["spec"]["publishNotReadyAddresses"] and peers["spec"]["clusterIP"] == "None"
    assert any(volume == {"name": "data", "emptyDir": {"sizeLimit": "10Gi"}} for volume in pod["volumes"])


def test_each_coordinator_has_a_name_that_the_certificate_has(manifests: list[Any]) -> None:
    kept, readme = only(manifests, "StatefulSet"), (KUBERNETES / "README.md").read_text(encoding="utf-8")
    (container,) = kept["spec"]["template"]["spec"]["containers"]
    domain = f"{kept['spec']['serviceName']}.{kept['metadata']['namespace']}.svc"
    assert f"--advertise=$(POD_NAME).{domain}:7070" in container["args"]
    (asked,) = re.findall(r"^peers=.*?[^\\]$", readme, re.MULTILINE | re.DOTALL)
    (host,) = re.findall(r"^ +--host (\S+)$", readme, re.MULTILINE)
    said = subprocess.run(["sh", "-c", f'{asked}; printf %s "{host}"'], check=True, capture_output=True, text=True)
    names = [f"{kept['metadata']['name']}-{n}.{domain}" for n in range(kept["spec"]["replicas"])]
    assert said.stdout.split(",") == ["zowarmup.zowarmup.svc", *names]


def test_the_password_is_a_secret_that_the_readme_makes(manifests: list[Any]) -> None:
    pod = only(manifests, "StatefulSet")["spec"]["template"]["spec"]
    variables = {one["name"]: one["valueFrom"] for one in pod["containers"][0]["env"]}
    assert variables["PGPASSWORD"] == {"secretKeyRef": {"name": "zowarmup-database", "key": "password"}}
    (mounted,) = [v["secret"] for v in pod["volumes"] if v["name"] == "database"]
    assert [item["key"] for item in mounted["items"]] == ["ca.crt"], "and not the password"
    store = read_run_file(KUBERNETES / "run.toml").server.store
    assert "sslmode=verify-full&sslrootcert=/database/ca.crt" in store
    readme = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    assert "create secret generic zowarmup-database --from-file=password --from-file=ca.crt=" in readme


def test_coordinators_reach_each_other_the_database_and_names_alone(manifests: list[Any]) -> None:
    policy = only(manifests, "NetworkPolicy")["spec"]
    ours = {"podSelector": policy["podSelector"]}
    assert policy["podSelector"] == only(manifests, "StatefulSet")["spec"]["selector"]
    assert policy["ingress"] == [{"from": [ours], "ports": [{"port": "grpc"}]}]
    peers, database, names = policy["egress"]
    assert peers == {"to": [ours], "ports": [{"port": 7070}]}
    (space,) = database["to"]
    store = read_run_file(KUBERNETES / "run.toml").server.store
    assert f".{space['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}.svc/" in store
    assert database["ports"] == [{"port": 5432}] and {port["port"] for port in names["ports"]} == {53}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Those of compose.yaml, with what compose.several.yaml says of them: as compose merges two files."""
    (first,), (second,) = documents(DEPLOY / "compose.yaml"), documents(COMPOSE)
    merged: dict[str, Any] = dict(first["services"])
    for name, service in second["services"].items():
        known = merged.get(name, {})
        mounts = {volume.split(":")[1]: volume for volume in [*known.get("volumes", ()), *service.get("volumes", ())]}
        merged[name] = {**known, **service, "volumes": list(mounts.values())}
        merged[name]["networks"] = [*known.get("networks", ()), *service.get("networks", ())]
    return merged


def test_compose_reads_it_and_finds_what_it_names(services: dict[str, Any], tool: Callable[[str], str]) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (first,), (second,) = documents(DEPLOY / "compose.yaml"), documents(COMPOSE)
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (
                (DEPLOY / source).exists() if source.startswith(".") else source in first["volumes"] | second["volumes"]
            )
        assert set(service["networks"]) <= {*first["networks"], *second["networks"]}
        assert set(service.get("depends_on", ())) <= set(services)
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert set(service.get("secrets", ())) <= set(second["secrets"])
    assert not services["postgres"].get("ports") and second["networks"]["database"] == {"internal": True}


def test_the_three_are_alike(services: dict[str, Any]) -> None:
    one, *others = (services[name] for name in COORDINATORS)
    for other in others:
        for key in (
            "image",
            "command",
            "secrets",
            "healthcheck",
            "restart",
            "stop_grace_period",
            "deploy",
            "tmpfs",
            "logging",
        ):
            assert other[key] == one[key], key
        assert set(other["networks"]) == set(one["networks"]) and other["depends_on"] == one["depends_on"]
        assert [v.split(":", 1)[1] for v in sorted(other["volumes"])] == [
            v.split(":", 1)[1] for v in sorted(one["volumes"])
        ]
    data = {volume for name in COORDINATORS for volume in services[name]["volumes"] if volume.endswith(":/data")}
    assert len(data) == len(COORDINATORS)
    asked = ",".join(f"{name}:7070" for name in COORDINATORS)
    assert [services[name]["environment"]["ADVERTISED"] for name in COORDINATORS] == asked.split(",")
    assert (
        services["certificates"]["environment"]["HOSTS"] == f"${{ZOWARMUP_HOSTS:-{','.join(COORDINATORS)},localhost}}"
    )
    (first,) = documents(DEPLOY / "compose.yaml")
    for name in ("client-high", "client-low"):
        assert services[name]["command"] == [
            asked if word == "server:7070" else word for word in first["services"][name]["command"]
        ]
    (second,) = documents(COMPOSE)
    watched, alone = (yaml.safe_load(one["configs"]["prometheus"]["content"]) for one in (second, first))
    assert watched["scrape_configs"][0].pop("static_configs") == [
        {"targets": [f"{name}:9464" for name in COORDINATORS]}
    ]
    del alone["scrape_configs"][0]["static_configs"]
    assert watched == alone


def test_its_own_commands_outlive_a_coordinator(
    services: dict[str, Any], tmp_path: Path, postgres: PostgresServer
) -> None:
    """Commands as processes over a real PostgreSQL, with the containers' folders and addresses exchanged for this machine's. The
    first coordinator, by which the client was invited, is killed, and the client is with another. Two of the three, to be quick."""
    started = COORDINATORS[:2]
    healthy: dict[str, str] = {}
    ports = {f"{name}:7070": f"localhost:{free_port()}" for name in COORDINATORS}
    shared = {f"/{name}": str(tmp_path / name) for name in ("certs", "join", "state")}
    (tmp_path / "password").write_text("a password\n")
    for folder in shared.values():
        Path(folder).mkdir()

    def here(text: str, name: str, health: str = "") -> str:
        for there, mine in ports.items():
            text = text.replace(there, mine)
        for there, mine in {**shared, "/data": str(tmp_path / f"data-{name}")}.items():
            text = re.sub(rf"(?<![\w/]){there}\b", mine, text)
        text = text.replace("/etc/zowarmup/run.toml", str(tmp_path / f"{name}.toml")).replace("127.0.0.1:7071", health)
        return text.replace("/run/secrets/database", str(tmp_path / "password")).replace("$$", "$")

    path = {"PATH": f"{Path(sys.executable).parent}:{DEPLOY / 'docker'}:/usr/bin:/bin", "HOSTS": "server,localhost"}
    running: dict[str, subprocess.Popen[str]] = {}

    def start(name: str, environment: dict[str, str]) -> None:
        command = [here(word, name) for word in services[name]["command"]]
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, env=path | environment, stdout=log, stderr=subprocess.STDOUT, text=True)
        running[name] = process

    def once(command: list[str], name: str, health: str = "") -> "subprocess.CompletedProcess[str]":
        words = [here(word, name, health) for word in command]
        return subprocess.run(words, env=path, check=False, capture_output=True, text=True, timeout=60)

    def connected(name: str) -> list[str]:
        ask = ["zowarmup", "status", "--json", "--server", f"{name}:7070", "--data-dir", "/data"]
        done = once(ask, name)
        told = json.loads(done.stdout) if done.returncode == 0 else {"clients": []}
        return [client["name"] for client in told["clients"] if client["connected"]]

    try:
        assert once(services["certificates"]["command"], "server").returncode == 0
        for name in started:
            health = healthy[name] = f"127.0.0.1:{free_port()}"
            run = here((DEPLOY / "compose.several.run.toml").read_text(encoding="utf-8"), name, health)
            run = run.replace("postgresql://zowarmup@postgres/zowarmup", str(postgres.address("composed")))
            run = run.replace("0.0.0.0:7070", ports[f"{name}:7070"]).replace("0.0.0.0:9464", f"127.0.0.1:{free_port()}")
            (tmp_path / f"{name}.toml").write_text(run, encoding="utf-8")
            start(name, {"ADVERTISED": here(services[name]["environment"]["ADVERTISED"], name)})
        for name, health in healthy.items():
            ask = services[name]["healthcheck"]["test"][1:]
            wait_until(lambda ask=ask, health=health, name=name: once(ask, name, health).returncode == 0, 180, "health")  # type: ignore[misc]
        assert once(services["invitations"]["command"], "server").returncode == 0
        start("client-low", {})
        wait_until(lambda: connected("server-2") == ["low-5"], 60, "the client, of which another coordinator tells")
        running["server"].kill()
        running["server"].wait()
        wait_until(lambda: "leads from now on" in (tmp_path / "server-2.log").read_text(), 60, "another leader")
        wait_until(lambda: connected("server-2") == ["low-5"], 60, "the client, with another coordinator")
    finally:
        for process in reversed(running.values()):
            process.terminate()
        for process in running.values():
            process.wait(30)
