"""Traces of rounds by OpenTelemetry: real processes export their spans over OTLP to a receiver that reads them with the protocol's own
messages, and those of the coordinator (zowarmup.server.telemetry.round_traces) and of its clients
(zowarmup.client.work.work_traces) make one trace a round.

The packages are in .build/tracking (`make tracking`), which takes all else from .venv; the processes with traces are of that Python.
"""

import base64
import gzip
import json
import os
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS, Fleet, wait_until
from zowarmup.common.settings.run import Evaluation, Model, RunFile

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / ".build" / "tracking"
RUN = RunFile(
    name="traced",
    seed=3,
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=1, learn_deadline=False, epochs=1),
    zeroth_order=zeroth_order_settings(
        rounds=4, clients_per_round=2, minimum_clients=2, quorum=1.0, learn_deadline=False
    ),
    evaluation=Evaluation(data="digits:test", every=2),
)


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has OpenTelemetry."""
    if not (TOOLS / "ready").exists():
        assert not os.environ.get("CI"), "continuous integration must have made it: make .build/tracking/ready"
        pytest.skip("there is no OpenTelemetry in .build/tracking: make tracking")
    return str(TOOLS / "bin" / "python")


@dataclass(frozen=True)
class Told:
    """A span, as a collector has it. Times are in seconds since 1970. `error`: what went wrong, if it did."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    begun_s: float
    ended_s: float
    attributes: dict[str, Any]
    error: str


@contextmanager
def collector(python: str) -> Iterator[tuple[str, Callable[[], list[Told]]]]:
    """Where OTLP over HTTP is taken: its endpoint, and what gives all spans so far."""
    bodies: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            bodies.append(base64.b64encode(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode())
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    def told() -> list[Told]:
        done = subprocess.run(
            [python, "-c", READ], input=json.dumps(bodies), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [Told(**span) for span in json.loads(done.stdout)]

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", told
        finally:
            server.shutdown()


# With the official messages: what cannot be read is no OTLP.
READ = """
import base64, json, sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
found = []
for body in json.load(sys.stdin):
    for group in ExportTraceServiceRequest.FromString(base64.b64decode(body)).resource_spans:
        service = {a.key: a.value.string_value for a in group.resource.attributes}["service.name"]
        for scope in group.scope_spans:
            for span in scope.spans:
                values = {a.key: a.value.int_value if a.value.HasField("int_value") else a.value.string_value
                          for a in span.attributes}
                found.append(dict(service=service, name=span.name, trace=span.trace_id.hex(), span=span.span_id.hex(),
                                  parent=span.parent_span_id.hex(), begun_s=span.start_time_unix_nano / 1e9,
                                  ended_s=span.end_time_unix_nano / 1e9, attributes=values,
                                  error=span.status.message))
print(json.dumps(found))
"""


def test_a_round_is_one_trace_of_the_coordinator_and_its_clients(
    fleet: Callable[..., Fleet], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector(python) as (endpoint, told):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        made = fleet(python)
        made.lead(RUN, "server", "--exit-when-finished")
        made.join("one", "digits:1/4", "high")
        made.join("two", "digits:2/4", "low")
        assert [made.code(name, 60) for name in ("server", "one", "two")] == [0, 0, 0]
        spans = told()
    assert {span.service for span in spans} == {"zowarmup-server", "zowarmup-client"}
    traces = defaultdict(list)
    for span in spans:
        traces[span.trace].append(span)
    rounds = {span.attributes["zowarmup.round"]: span for span in spans if span.name == "round"}
    assert sorted(rounds) == [1, 2, 3, 4, 5, 6]
    for number, root in rounds.items():
        own = [span for span in traces[root.trace] if span is not root]
        warm_up = number <= 2
        assert root.parent == "" and root.attributes["zowarmup.run"] == "traced"
        assert root.attributes["zowarmup.participants"] == (1 if warm_up else 2)
        children = sorted(span.name for span in own if span.parent == root.span and span.service == "zowarmup-server")
        evaluated = ["evaluate"] if number % 2 == 0 else []
        assert children == sorted(["open", "wait for contributions", "aggregate", "commit", *evaluated]), number
        work = {span.attributes["zowarmup.client"]: span for span in own if span.name == "work"}
        assert set(work) == ({"one"} if warm_up else {"one", "two"})
        for client, span in work.items():
            assert span.parent == root.span and span.service == "zowarmup-client"
            assert span.attributes["zowarmup.tier"] == ("high" if client == "one" else "low")
            assert span.attributes["zowarmup.phase"] == ("warm-up" if warm_up else "zeroth-order")
            parts = {part.name: part for part in own if part.parent == span.span}
            assert set(parts) == {"receive work", "compute", "upload"}
            assert span.begun_s <= parts["compute"].begun_s <= parts["compute"].ended_s <= parts["upload"].ended_s
            assert root.begun_s <= span.begun_s and parts["compute"].ended_s <= root.ended_s
        assert all(span.begun_s <= span.ended_s for span in own)
    assert len(traces) == len(rounds) + 1, "beside the rounds there is the evaluation of the initial weights"


def test_a_round_that_a_restart_finds_open_has_a_trace_and_one_that_is_abandoned_says_why(
    fleet: Callable[..., Fleet], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(RUN.zeroth_order, rounds=ENDLESS, deadline_s=3600.0)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms
    with collector(python) as (endpoint, told):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        made = fleet(python)
        made.lead(replace(RUN, zeroth_order=rules))
        made.join("one", "digits:1/4", "high")
        made.join("two", "digits:2/4", "low")
        made.join("three", "digits:3/4", "low")
        made.until(lambda status: status.version >= 3 and len(status.clients) == 3, 60, "rounds of all")
        made.freeze("two")
        stuck = made.until(lambda status: "left for two" in status.activity, 60, "a round that waits for it")

        def exported() -> bool:
            before = ("round", stuck.round - 1)
            return any((span.name, span.attributes.get("zowarmup.round")) == before for span in told())

        wait_until(exported, 60, "what would die with the coordinator")
        made.signal("server", signal.SIGKILL)
        made.lead(None, "server again", "--exit-when-finished")
        wait_until(lambda: f"round {stuck.round} abandoned" in made.logged("server again"), 60, "its end")
        made.thaw("two")
        made.until(lambda status: status.version > stuck.version, 60, "a round of the others")
        made.end_run()
        assert [made.code(name, 60) for name in ("server again", "one", "two", "three")] == [0, 0, 0, 0]
        spans = told()
    rounds = defaultdict(list)
    for span in spans:
        if span.name == "round":
            rounds[span.attributes["zowarmup.round"]].append(span)
    assert sorted(rounds) == list(range(1, max(rounds) + 1))
    # The killed coordinator never ended its span of the round, so it is the second one's alone.
    (root,) = rounds[stuck.round]
    assert "1 of 2 can contribute, quorum is 2 and others are connected (two not back since the restart)" in root.error
    own = [span for span in spans if span.trace == root.trace and span is not root]
    assert [span.name for span in own if span.parent == root.span and span.service == "zowarmup-server"] == [
        "wait for contributions"
    ], "it was opened before, and never aggregated"
    for number, (other,) in rounds.items():
        if number != stuck.round:
            parts = {span.name for span in spans if span.parent == other.span and span.service == "zowarmup-server"}
            assert not other.error and {"open", "wait for contributions", "aggregate", "commit"} <= parts, number


def test_a_collector_that_is_not_there_costs_a_run_nothing_but_a_line(
    fleet: Callable[..., Fleet], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And packages that are not there a warning: here the coordinator has them and the client has not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    traced, plain = fleet(python), fleet()
    plain.address = traced.address
    traced.lead(RUN, "server", "--exit-when-finished")
    plain.join("one", "digits:1/4", "high")
    plain.join("two", "digits:2/4", "low")
    assert [plain.code(name, 120) for name in ("one", "two")] == [0, 0]
    assert traced.code("server", 60) == 0
    assert (
        "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and opentelemetry is not installed here: pip install 'zowarmup[otel]'"
        in (plain.logged("two"))
    )
    assert "run finished at version 6" in traced.logged("server")
