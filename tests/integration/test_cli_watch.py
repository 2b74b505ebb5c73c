"""Watching a run over a real connection, into a pipe: one line for each change, until it is finished."""

import io
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from rich.console import Console

from tests.tasks import accuracy_of
from zowarmup.cli.session.session import Session
from zowarmup.cli.watch import watch
from zowarmup.common.system.command import Interrupted, Interrupts
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


class Operator(services.OperatorServiceServicer):
    """Answers with each of `script` in turn, then with the last; None is no answer."""

    def __init__(self, *script: wire.GetStatusResponse | None) -> None:
        self.script = list(script)

    def GetStatus(self, request: wire.GetStatusRequest, context: grpc.ServicerContext) -> wire.GetStatusResponse:
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if answer is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return answer

    def ListVersions(
        self, request: wire.ListVersionsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListVersionsResponse]:
        for version in range(request.from_version, 3):
            yield wire.ListVersionsResponse(
                version=version,
                round=version,
                phase=wire.PHASE_ZEROTH_ORDER,
                committed_at_s=1000.0 + 90 * version,
                evaluation=wire.Evaluation(
                    version=version, metrics=accuracy_of(0.25 + 0.25 * version), loss=2.0 - 0.5 * version
                ),
            )


@contextmanager
def serving(operator: Operator) -> Iterator[Session]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    services.add_OperatorServiceServicer_to_server(operator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Session(f"127.0.0.1:{port}") as session:
            yield session
    finally:
        server.stop(None).wait()


def at(version: int, phase: wire.Phase = wire.PHASE_ZEROTH_ORDER) -> wire.GetStatusResponse:
    metrics = [wire.Metric(name="accuracy", best=1.0, higher_is_better=True, share=True)]
    return wire.GetStatusResponse(
        metrics=metrics, phase=phase, version=version, pivot_version=1, final_version=3, activity="round 3"
    )


def test_each_change_is_one_line_until_the_run_is_finished() -> None:
    console = Console(file=io.StringIO(), width=80)
    operator = Operator(at(2), at(2), None, None, at(2), at(3, wire.PHASE_FINISHED))
    with serving(operator) as session:
        watch(session, Interrupts(), console)
        assert isinstance(console.file, io.StringIO)
        first, lost, again, last = console.file.getvalue().splitlines()
    assert first == again == "zeroth-order, version 2 of 3; round 3"
    assert lost.startswith(f"no answer from {session.address} for ")
    assert last == "finished, version 3 of 3; round 3"


def test_on_a_terminal_it_is_drawn_in_place() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with serving(Operator(at(2), None, at(3, wire.PHASE_FINISHED))) as session:
        watch(session, Interrupts(), console)
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "no answer from" in drawn
    assert "▁▅█  25.0 % to 75.0 %" in drawn, "the curve"
    assert "█▅▁  2.00 to 1.00 nats, versions 0 to 2" in drawn
    assert "about 1 min 30 s: 1 round, of which the last took 1 min 30 s each" in drawn


def test_a_signal_ends_it() -> None:
    noted = Interrupts()
    noted.received.append(2)
    with serving(Operator(at(2))) as session, pytest.raises(Interrupted):
        watch(session, noted, Console(file=io.StringIO()))
