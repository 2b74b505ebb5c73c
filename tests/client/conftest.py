"""A coordinator that follows a script, over a real socket, and real client processes to play it to.

A test is a coroutine that says and hears the stream's messages itself, so it decides when the network breaks, what is
refused and what is asked again; bulk calls can be told to break off.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout, digest
from zowarmup.common.messages.codec import tier_to_wire
from zowarmup.common.messages.values import Tier
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.run import PROTOCOL, ClientSpec, Model
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

DATA = "digits:1/10"
HEARING_S = 300.0
"""Where nothing has come by then, something hangs."""
CHUNK_BYTES = 4096


@dataclass(frozen=True)
class Run:
    """What a scripted coordinator trains."""

    spec: ClientSpec
    layout: Layout
    program: bytes
    weights: NDArray[np.float32]
    grid: Grid


def prepared(model: Model) -> Run:
    """A model on digits at random weights on a grid, as a coordinator would ship it."""
    spec = ClientSpec(
        model=model,
        card=card_of(load("digits:test"), "digits:test"),
        warmup=warmup_settings(rounds=2, epochs=2, batch=16),
        zeroth_order=zeroth_order_settings(rounds=3, train="all", probes=8, head_projections=4, whitening=0),
    )
    module = build(model, spec.input_shape, spec.task.outputs, 0)
    layout = describe(module, spec.input_shape)
    weights = flatten(module, layout)
    grid = Grid.choose(weights)
    return Run(spec, layout, export_program(module, layout, spec.input_shape), grid.quantise(weights), grid)


@pytest.fixture(scope="session")
def run() -> Run:
    """The small mlp."""
    return prepared(Model(name="mlp"))


class Talk:
    """One open Participate stream, seen from the coordinator."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def hear(self, *kinds: str) -> Any:
        """The next message, which must be of one of these kinds."""
        message = await asyncio.wait_for(self._context.read(), HEARING_S)
        wanted = " or ".join(kinds)
        assert message is not grpc.aio.EOF, f"the client ended the stream instead of a {wanted}"  # type: ignore[attr-defined]
        assert message.WhichOneof("message") in kinds, message
        return getattr(message, message.WhichOneof("message"))

    async def end(self) -> None:
        """The client says nothing more. One that is stopped cancels its stream, which may be noticed before the stream's end."""
        message = grpc.aio.EOF  # type: ignore[attr-defined]
        with contextlib.suppress(asyncio.CancelledError):
            message = await asyncio.wait_for(self._context.read(), HEARING_S)
        assert message is grpc.aio.EOF, message  # type: ignore[attr-defined]

    async def say(self, **message: Any) -> None:
        await self._context.write(wire.ParticipateResponse(**message))

    async def refuse(self, code: grpc.StatusCode, details: str, reason: str = "") -> None:
        await self._context.abort(code, details, (("zowarmup-reason", reason),) if reason else ())


Part = Callable[[Talk], Awaitable[None]]


@dataclass
class Scripted(services.CoordinatorServiceServicer):
    """Plays `parts` in order, one for each stream. `breaks` holds, for each coming bulk call, after how many bytes it
    breaks off. What was asked is recorded."""

    run: Run
    run_id: str = "run-1"
    protocol: int = PROTOCOL
    parts: list[Part] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)  # beside the program, by name
    low_memory_bytes: int = 1
    high_memory_bytes: int = 1
    enrolments: list[wire.EnrolRequest] = field(default_factory=list)
    fetches: list[tuple[str, int, int]] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    delta: bytearray = field(default_factory=bytearray)
    failures: list[BaseException] = field(default_factory=list)
    refusal: tuple[str, grpc.StatusCode, str] | None = None
    refusal_word: str = ""
    played: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # snapshots are held back until it is set

    def __post_init__(self) -> None:
        self.gate.set()

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[int]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        services.add_CoordinatorServiceServicer_to_server(self, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield bound
        finally:
            await server.stop(0)

    async def GetRun(self, request: wire.GetRunRequest, context: Any) -> wire.GetRunResponse:
        await self._maybe_refuse("GetRun", context)
        return wire.GetRunResponse(
            protocol=self.protocol,
            run_id=self.run_id,
            name="digits",
            spec_json=self.run.spec.to_json(),
            layout_json=self.run.layout.to_json(),
            program_sha256=hashlib.sha256(self.run.program).digest(),
            program_bytes=len(self.run.program),
            high_memory_bytes=self.high_memory_bytes,
            low_memory_bytes=self.low_memory_bytes,
            artifacts=[
                wire.Artifact(name=name, sha256=hashlib.sha256(content).digest(), size_bytes=len(content))
                for name, content in self.artifacts.items()
            ],
        )

    async def Enrol(self, request: wire.EnrolRequest, context: Any) -> wire.EnrolResponse:
        await self._maybe_refuse("Enrol", context)
        self.enrolments.append(request)
        return wire.EnrolResponse(client=request.name, credential="c0ffee")

    async def Participate(self, requests: object, context: Any) -> None:
        await self._maybe_refuse("Participate", context)
        assert dict(context.invocation_metadata())["zowarmup-credential"] == "c0ffee"
        part = self.parts.pop(0)
        try:
            await part(Talk(context))
        except grpc.aio.AbortError:
            raise
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            if not self.parts:
                self.played.set()

    async def FetchSnapshot(self, request: wire.FetchSnapshotRequest, context: Any) -> AsyncIterator[Any]:
        self.fetches.append(("snapshot", request.version, request.offset_bytes))
        if request.version not in self.snapshots:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no snapshot of version {request.version} is kept")
        await self.gate.wait()
        content = self.snapshots[request.version]
        yield wire.FetchSnapshotResponse(
            header=wire.SnapshotHeader(
                version=request.version,
                grid_exponent=self.run.grid.exponent,
                digest=digest(np.frombuffer(content, np.float32)),
                size_bytes=len(content),
            )
        )
        async for chunk in self._chunks(content, request.offset_bytes, context):
            yield wire.FetchSnapshotResponse(chunk=chunk)

    async def FetchArtifact(self, request: wire.FetchArtifactRequest, context: Any) -> AsyncIterator[Any]:
        self.fetches.append(("program", 0, request.offset_bytes))
        known = {hashlib.sha256(content).digest(): content for content in self.artifacts.values()}
        content = known.get(request.sha256, self.run.program)
        async for chunk in self._chunks(content, request.offset_bytes, context):
            yield wire.FetchArtifactResponse(chunk=chunk)

    async def GetUpload(self, request: wire.GetUploadRequest, context: Any) -> wire.GetUploadResponse:
        await self._maybe_refuse("GetUpload", context)
        return wire.GetUploadResponse(offset_bytes=len(self.delta))

    async def UploadDelta(self, requests: AsyncIterator[Any], context: Any) -> wire.UploadDeltaResponse:
        header = (await anext(aiter(requests))).header
        assert header.offset_bytes == len(self.delta)
        self.uploads.append(header.offset_bytes)
        stop = self.breaks.pop(0) if self.breaks else header.size_bytes
        async for request in requests:
            self.delta += request.chunk[: stop - len(self.delta)]
            if len(self.delta) >= stop and stop < header.size_bytes:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")
        return wire.UploadDeltaResponse(stored_bytes=len(self.delta))

    async def _chunks(self, content: bytes, offset: int, context: Any) -> AsyncIterator[bytes]:
        stop = offset + self.breaks.pop(0) if self.breaks else len(content)
        for start in range(offset, len(content), CHUNK_BYTES):
            yield content[start : min(start + CHUNK_BYTES, stop)]
            if start + CHUNK_BYTES >= stop and stop < len(content):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")

    async def _maybe_refuse(self, call: str, context: Any) -> None:
        if self.refusal is not None and self.refusal[0] == call:
            await context.abort(*self.refusal[1:], trailing_metadata=(("zowarmup-reason", self.refusal_word),))


class Client:
    """A real client process; `log` is what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.log = process, ""
        self._reader = asyncio.create_task(self._read())
        self._printed = asyncio.Event()

    async def printed(self, text: str) -> None:
        """Wait until a text stands in the log."""
        async with asyncio.timeout(HEARING_S):
            while text not in self.log:
                self._printed.clear()
                await self._printed.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(HEARING_S):
            await self._reader
            return await self.process.wait()

    async def stopped(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.log += line.decode()
            self._printed.set()


Start = Callable[..., Coroutine[Any, Any, Client]]


@pytest.fixture
def scripted(run: Run) -> Scripted:
    coordinator = Scripted(run)
    coordinator.snapshots[1] = run.weights.tobytes()
    return coordinator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a client against a port, with its state in the test's own directory unless it is told otherwise."""

    async def started(port: int, *arguments: str, data: str = DATA, tier: str = "low") -> Client:
        command = [sys.executable, "-m", "zowarmup.client.main", "--server", f"127.0.0.1:{port}", "--data", data]
        command += ["--state-dir", str(tmp_path / "state"), "--name", "pi", "--tier", tier, *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(os.environ)
        )
        started_pids.append(process.pid)
        return Client(process)

    started_pids: list[int] = []
    yield started
    for pid in started_pids:  # those of a test that failed
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def nothing_unexpected(scripted: Scripted) -> Any:
    """Whatever went wrong inside a scripted part is the test's failure."""
    yield
    assert scripted.failures == []


def one_sentence(log: str) -> str:
    """The only thing that a refused client says, without its name."""
    assert "Traceback" not in log
    said = [line for line in log.splitlines() if not re.match(r"\d{4}-", line)]
    assert len(said) == 1, log
    return said[0].removeprefix("zowarmup-client: ")


def enrolled_as(request: wire.EnrolRequest) -> Tier:
    return next(tier for tier in Tier if tier_to_wire(tier) == request.tier)
