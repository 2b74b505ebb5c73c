"""compose.yaml: its form, that its parts fit each other, and its own commands as processes. No container runs here."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.conftest import DEPLOY, documents
from tests.e2e.conftest import wait_until
from zowarmup.lab.processes import free_port
from zowarmup.server.setup.run_file import read_run_file

COMPOSE = DEPLOY / "compose.yaml"
SHARDS = 24


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    (compose,) = documents(COMPOSE)
    services: dict[str, Any] = compose["services"]
    return services


def test_it_has_the_form_that_compose_reads(tool: Callable[[str], str]) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_it_mounts_and_builds_is_there(services: dict[str, Any]) -> None:
    (compose,) = documents(COMPOSE)
    recipe = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], volume
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in recipe
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert set(service.get("depends_on", ())) <= set(services)
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/dashboards" / Path(home).name).exists()


def test_its_prometheus_is_configured_as_the_other_one_is(services: dict[str, Any]) -> None:
    """But for the address of the coordinator and where the rules are."""
    (compose,) = documents(COMPOSE)
    inline = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    (other,) = documents(DEPLOY / "prometheus/prometheus.yml")
    assert inline.pop("rule_files") == ["/etc/prometheus/rules/*.yml"]
    assert other.pop("rule_files") == ["rules/*.yml"]
    (job,) = inline["scrape_configs"]
    metrics = read_run_file(DEPLOY / "compose.run.toml").server.metrics_address
    assert job.pop("static_configs") == [{"targets": [f"server:{metrics.rpartition(':')[2]}"]}]
    del other["scrape_configs"][0]["static_configs"]
    assert inline == other


def test_every_place_has_a_shard_and_no_two_tiers_share_one(services: dict[str, Any]) -> None:
    places: list[int] = []
    for tier in ("high", "low"):
        service = services[f"client-{tier}"]
        program, first, last, folder, *client = service["command"]
        assert (program, folder, client[0]) == ("take-a-place", "/state", "zowarmup-client")
        assert f"digits:{{}}/{SHARDS}" in client
        mine = range(int(first), int(last) + 1)
        assert service["deploy"]["replicas"] <= len(mine)
        places += mine
    assert sorted(places) == list(range(1, SHARDS + 1))
    assert services["client-low"]["deploy"]["resources"]["limits"]["memory"] == "200M"


def test_its_own_commands_make_a_fleet(services: dict[str, Any], tmp_path: Path) -> None:
    """Each service's command as a process, with the containers' folders and addresses exchanged for this machine's. The
    clients join by the invitations that a service made; one that is killed comes back as itself."""
    ports = {"server:7070": f"localhost:{free_port()}", "127.0.0.1:7071": f"127.0.0.1:{free_port()}"}
    folders = {f"/{name}": str(tmp_path / name) for name in ("certs", "data", "join", "state")}
    for folder in folders.values():
        Path(folder).mkdir()

    def here(text: str) -> str:
        for there, mine in ports.items():
            text = text.replace(there, mine)
        for there, mine in folders.items():
            text = re.sub(rf"(?<![\w/]){there}\b", mine, text)
        return text.replace("/etc/zowarmup/run.toml", str(tmp_path / "run.toml")).replace("$$", "$")

    run = here((DEPLOY / "compose.run.toml").read_text(encoding="utf-8"))
    run = run.replace("0.0.0.0:7070", ports["server:7070"]).replace("0.0.0.0:9464", f"127.0.0.1:{free_port()}")
    run = run.replace("minimum_clients = 1 ", "minimum_clients = 4 ")  # so that no round begins
    (tmp_path / "run.toml").write_text(run, encoding="utf-8")
    path = {"PATH": f"{Path(sys.executable).parent}:{DEPLOY / 'docker'}:/usr/bin:/bin", "HOSTS": "server,localhost"}

    def once(service: str) -> None:
        command = [here(word) for word in services[service]["command"]]
        subprocess.run(command, env=path, check=True, capture_output=True, timeout=60)

    def start(service: str) -> "subprocess.Popen[str]":
        command = [here(word) for word in services[service]["command"]]
        log = (tmp_path / f"{len(running)}-{service}.log").open("w")
        running.append(subprocess.Popen(command, env=path, stdout=log, stderr=subprocess.STDOUT, text=True))
        return running[-1]

    def logs() -> list[Path]:
        return sorted(tmp_path.glob("*.log"))

    running: list[subprocess.Popen[str]] = []
    try:
        once("certificates")
        once("certificates")  # what is there stays
        start("server")
        healthy = [here(word) for word in services["server"]["healthcheck"]["test"][1:]]
        wait_until(
            lambda: subprocess.run(healthy, env=path, check=False, capture_output=True).returncode == 0, 180, "health"
        )
        once("invitations")
        once("invitations")
        for _ in range(3):
            start("client-low")
        high = start("client-high")

        def connected() -> dict[str, str]:
            command = ["zowarmup", "status", "--json", "--server", ports["server:7070"], "--data-dir", folders["/data"]]
            told = subprocess.run(command, env=path, check=True, capture_output=True, text=True, timeout=30).stdout
            return {client["name"]: client["tier"] for client in json.loads(told)["clients"] if client["connected"]}

        everyone = {"high-1": "high", "low-5": "low", "low-6": "low", "low-7": "low"}
        wait_until(lambda: connected() == everyone, 60, "four clients")
        high.send_signal(signal.SIGKILL)
        high.wait()
        start("client-high")
        wait_until(lambda: "as high-1 (tier high: as it enrolled)" in logs()[-1].read_text(), 60, "its return")
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)
