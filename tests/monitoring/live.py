"""A real Prometheus, and a real fleet for it to look at.

The coordinator shows its metrics over TLS and asks for a password, and Prometheus runs on deploy/prometheus as it is
shipped, with its commented lines for TLS and basic authentication taken in. Three things are changed, so that a test
need not wait for hours: the address to scrape, the intervals (1 s), and how long an alert must last before it fires
(`for`, a sixtieth of it). Expressions are as shipped; promtool checks them against the durations as shipped.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import Panel
from grafana_foundation_sdk.models.prometheus import Dataquery

from tests.patience import PATIENCE
from zowarmup.cli import certificates
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.command import Interrupts
from zowarmup.common.system.pdeathsig import tethered
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port
from zowarmup.server.telemetry.cluster_metrics import ClusterFigures, ClusterMetrics

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "deploy" / "prometheus"
BUILT = REPOSITORY / ".build" / "prometheus"
FASTER = 60
USER, PASSWORD = "prometheus", "a password of a test's own"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; where there is none the test fails in CI and is skipped elsewhere."""
    found = shutil.which(name, path=f"{BUILT}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        what = (
            f"there is no {name}: `make .build/prometheus/ready` fetches it where there is apt-get; elsewhere install "
            "prometheus and promtool (https://prometheus.io/download) so that both are on the PATH"
        )
        assert not os.environ.get("CI"), what
        pytest.skip(what)
    return found


def panels_of(board: Dashboard) -> list[Panel]:
    """A dashboard's panels, without the headings of its rows."""
    return [panel for panel in board.build().panels or [] if isinstance(panel, Panel)]


def queries_of(panel: Panel) -> list[Dataquery]:
    return [target for target in panel.targets or [] if isinstance(target, Dataquery)]


def told_by_several() -> set[str]:
    """The metrics that a coordinator tells only where several share a run."""
    figures = ClusterFigures(True, 1, 1, 0, 0.0, 0, {})
    return {sample.name for metric in ClusterMetrics(lambda: figures).collect() for sample in metric.samples}


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """The expression with `$name` replaced. Raises KeyError for a variable without a value."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def uncommented(config: str) -> str:
    """The shipped configuration with its settings for TLS and basic authentication taken in."""
    wanted = (
        "scheme:",
        "tls_config:",
        "  ca_file:",
        "  server_name:",
        "basic_auth:",
        "  username:",
        "  password_file:",
    )
    lines = []
    for line in config.splitlines():
        said = line.strip().removeprefix("# ")
        lines.append(" " * 4 + said if line.startswith("    # ") and said.startswith(wanted) else line)
    return "\n".join(lines) + "\n"


def hastened(rules: str) -> str:
    """Rules whose alerts fire sixty times sooner."""
    tree = yaml.safe_load(rules)
    for group in tree["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                count, unit = int(rule["for"][:-1]), {"s": 1, "m": 60, "h": 3600}[rule["for"][-1]]
                rule["for"] = f"{count * unit * 1000 // FASTER}ms"
    return yaml.safe_dump(tree)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, asked over its HTTP interface."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer. Raises AssertionError with Prometheus' own words where it refuses."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with DIRECT.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.read().decode()}") from error

    def now(self, expr: str, at: float | None = None) -> dict[str, float]:
        """The values of an instant query, by their labels as JSON."""
        moment = {} if at is None else {"time": f"{at}"}
        data = self.get("query", query=expr, **moment)
        if data["resultType"] == "scalar":
            return {"{}": float(data["result"][1])}
        return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in data["result"]}

    def between(self, expr: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """The series of a range query: `metric` (labels) and `values` ([time, text] pairs)."""
        found = self.get("query_range", query=expr, start=f"{start}", end=f"{end}", step=f"{step}")["result"]
        assert isinstance(found, list)
        return found

    def until(self, expr: str, seconds: float, check: Callable[[], None] = lambda: None) -> float:
        """Wait until an expression has a value that is not 0; the time. `check` may fail earlier."""
        end = time.monotonic() + PATIENCE * seconds
        while not any(self.now(expr).values()):
            check()
            assert time.monotonic() < end, f"waited {seconds:g} s for {expr}"
            time.sleep(0.25)
        return time.time()


@contextlib.contextmanager
def prometheus(folder: Path, target: str, interval: str = "1s") -> Iterator[Prometheus]:
    """Prometheus as shipped, but for what this module's first lines say; gone when the block ends."""
    program = tool("prometheus")
    (folder / "rules").mkdir()
    for path in sorted((SHIPPED / "rules").glob("*.yml")):
        (folder / "rules" / path.name).write_text(hastened(path.read_text()))
    config = yaml.safe_load(uncommented((SHIPPED / "prometheus.yml").read_text()))
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    job["tls_config"]["server_name"] = "127.0.0.1"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        running = subprocess.Popen(tethered(program, *arguments), stdout=log, stderr=log, start_new_session=True)
    try:
        answering = Prometheus(address)
        for _ in range(100):
            assert running.poll() is None, (folder / "prometheus.log").read_text()
            with contextlib.suppress(OSError), DIRECT.open(f"http://{address}/-/ready", timeout=5):
                break
            time.sleep(0.1)
        yield answering
    finally:
        running.terminate()
        running.wait(20)


class Fleet:
    """One coordinator, with TLS and its metrics behind a password, and clients of both tiers on the digits."""

    def __init__(self, folder: Path, processes: Processes, run: RunFile, high: int, low: int) -> None:
        self._folder, self._processes = folder, processes
        self.address, self.metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.tiers = {
            **{f"high-{n}": "high" for n in range(1, high + 1)},
            **{f"low-{n}": "low" for n in range(1, low + 1)},
        }
        certs = folder / "certs"
        certificates.init(certs, ["127.0.0.1"])
        (certs / "metrics.password").write_text(PASSWORD + "\n")
        text = to_toml(run)
        for name, value in {
            "tls_certificate": f"{certs / 'server.crt'}",
            "tls_key": f"{certs / 'server.key'}",
            "metrics_address": self.metrics,
            "metrics_user": USER,
            "metrics_password_file": f"{certs / 'metrics.password'}",
        }.items():
            text = text.replace(f'\n{name} = ""', f"\n{name} = {json.dumps(value)}")
        (folder / "run.toml").write_text(text)

    def lead(self, name: str = "coordinator") -> None:
        arguments = [
            str(self._folder / "run.toml"),
            "--data-dir",
            str(self._folder / "server"),
            "--address",
            self.address,
        ]
        self._processes.start(name, "zowarmup.server.main", arguments)

    def join(self, name: str, again: str = "") -> None:
        shard = list(self.tiers).index(name) + 1
        arguments = ["--server", self.address, "--ca", str(self._folder / "certs" / "ca.crt"), "--name", name]
        arguments += ["--tier", self.tiers[name], "--data", f"digits:{shard}/{len(self.tiers)}"]
        arguments += ["--state-dir", str(self._folder / "clients" / name)]
        self._processes.start(name + again, "zowarmup.client.main", arguments)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._processes.pid(name), number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)

    def scrape(self) -> str:
        """What Prometheus reads."""
        trusted = ssl.create_default_context(cafile=str(self._folder / "certs" / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        told = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"https://{self.metrics}/metrics", headers={"Authorization": f"Basic {told}"})
        with opener.open(request, timeout=20) as answer:
            body: bytes = answer.read()
        return body.decode()

    def stranger(self) -> None:
        """Somebody sends what is no message, and is refused."""
        trusted = grpc.ssl_channel_credentials((self._folder / "certs" / "ca.crt").read_bytes())
        with grpc.secure_channel(self.address, trusted, [("grpc.enable_http_proxy", 0)]) as channel:
            enrol = channel.unary_unary(
                "/zowarmup.v1.CoordinatorService/Enrol", request_serializer=None, response_deserializer=None
            )
            with pytest.raises(grpc.RpcError) as refused:
                enrol(b"\xff\xff", timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value

    def sound(self) -> None:
        """Raises AssertionError where a process has failed that nobody killed."""
        failed = [ended for ended in self._processes.ended() if ended.code not in (0, -9)]
        assert not failed, failed[0].sentence()


@contextlib.contextmanager
def fleet(folder: Path, run: RunFile, high: int, low: int) -> Iterator[Fleet]:
    """A coordinator and its clients, not yet started; gone when the block ends."""
    (folder / "logs").mkdir()
    environment: Mapping[str, str] = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}
    with Processes(folder / "logs", Interrupts(), environment) as processes:
        yield Fleet(folder, processes, run, high, low)
