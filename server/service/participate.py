"""GetRun, Enrol and Participate: the small talk."""

import asyncio
import contextlib
import secrets

from zowarmup.common import codec
from zowarmup.common.run import PROTOCOL, ClientSpec
from zowarmup.server import events as ev
from zowarmup.server.blobs import Blobs
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.decide import Rejected
from zowarmup.server.service.admission import (
    Context,
    authenticate,
    check_name,
    check_protocol,
    check_run,
    hash_credential,
    refusals,
    refuse,
)
from zowarmup.server.service.bulk import BulkCalls
from zowarmup.server.service.links import Link, Switchboard
from zowarmup.server.traffic import Traffic
from zowarmup.v1 import coordinator_pb2 as wire


class CoordinatorService(BulkCalls):
    """What a client needs of a coordinator."""

    def __init__(
        self, coordinator: Coordinator, blobs: Blobs, deltas: Blobs, switchboard: Switchboard, traffic: Traffic
    ) -> None:
        super().__init__(coordinator, blobs, deltas, traffic)
        self._switchboard = switchboard
        self._farewells: set[asyncio.Task[tuple[ev.Event, ...]]] = set()

    async def GetRun(self, request: wire.GetRunRequest, context: Context) -> wire.GetRunResponse:
        async with refusals(context):
            check_protocol(request.protocol, PROTOCOL)
        state = self._coordinator.state
        run, program = state.run_file, state.program
        spec = ClientSpec(
            model=run.model,
            input_shape=program.input_shape,
            classes=program.classes,
            warmup=run.warmup,
            zeroth_order=run.zeroth_order,
        )
        answer = wire.GetRunResponse(
            protocol=PROTOCOL,
            run_id=state.run_id,
            name=run.name,
            spec_json=spec.to_json(),
            layout_json=program.layout,
            program_sha256=bytes.fromhex(program.sha256),
            program_bytes=program.size_bytes,
            high_memory_bytes=program.high_memory_bytes,
            low_memory_bytes=program.low_memory_bytes,
        )
        self._traffic.up(None, state.phase, "control", request.ByteSize())
        self._traffic.down(None, state.phase, "control", answer.ByteSize())
        return answer

    async def Enrol(self, request: wire.EnrolRequest, context: Context) -> wire.EnrolResponse:
        async with refusals(context):
            check_run(request.run_id, self._coordinator.state.run_id)
            check_name(request.name)
            if not 1 <= request.examples < 1 << 48:
                raise Rejected("invalid", f"examples = {request.examples}: must be at least 1")
            tier = codec.tier_from_wire(request.tier)
            credential = secrets.token_hex(32)
            (enrolled, *_) = await self._coordinator.handle(
                ev.Enrol(request.name, tier, request.examples, hash_credential(credential))
            )
            assert isinstance(enrolled, ev.ClientEnrolled)
            answer = wire.EnrolResponse(client=enrolled.client, credential=credential)
            phase = self._coordinator.state.phase
            self._traffic.up(tier, phase, "control", request.ByteSize())
            self._traffic.down(tier, phase, "control", answer.ByteSize())
        return answer

    async def Participate(self, requests: object, context: Context) -> None:
        async with refusals(context):
            name, client = authenticate(self._coordinator, context)
            first = await context.read()
            if not isinstance(first, wire.ParticipateRequest) or first.WhichOneof("message") != "hello":
                raise Rejected("invalid", "the first message on a stream must be a Hello")
            hello = first.hello
            check_protocol(hello.protocol, PROTOCOL)
            check_run(hello.run_id, self._coordinator.state.run_id)
            if not 1 <= hello.examples < 1 << 48 or len(hello.digest) not in (0, 16):
                raise Rejected("invalid", "hello: examples must be at least 1 and the digest 16 bytes or none")
            self._traffic.up(client.tier, self._coordinator.state.phase, "control", first.ByteSize())
            link = self._switchboard.open(name, client.tier, hello.version, hello.digest.hex())
            reader: asyncio.Task[None] | None = None
            try:
                await self._coordinator.handle(ev.Hello(name, link.epoch, hello.examples))
                self._switchboard.welcome(link, self._coordinator.state, self._coordinator.clock())
                reader = asyncio.create_task(self._read(link, context))
                await self._write(link, context)
            finally:
                if reader is not None:
                    reader.cancel()
                self._switchboard.close(link)
                self._say_goodbye(link)
        if link.ended is not None:
            await refuse(context, link.ended)

    async def _write(self, link: Link, context: Context) -> None:
        while (message := await link.queue.get()) is not None:
            kind = "commit" if message.WhichOneof("message") == "commit" else "control"
            self._traffic.down(link.tier, self._coordinator.state.phase, kind, message.ByteSize())
            await context.write(message)

    async def _read(self, link: Link, context: Context) -> None:
        ended: Rejected | None = None
        try:
            while isinstance(message := await context.read(), wire.ParticipateRequest):
                await self._hear(link, message)
        except Rejected as rejected:
            ended = rejected
        except Unavailable as error:
            ended = Rejected("unavailable", f"{error}; nothing has changed, reconnect to try again")
        finally:
            link.end(ended)

    async def _hear(self, link: Link, message: wire.ParticipateRequest) -> None:
        kind, phase = message.WhichOneof("message"), self._coordinator.state.phase
        contribution = kind in ("scalars", "delta_ready")
        self._traffic.up(link.tier, phase, "contribution" if contribution else "control", message.ByteSize())
        if kind == "report":
            report = message.report
            if len(report.digest) != 16:
                raise Rejected("invalid", "report: the digest must be 16 bytes")
            await self._coordinator.handle(
                ev.Report(link.client, report.version, report.digest.hex(), report.peak_memory_bytes)
            )
        elif contribution:
            await self._contribute(link, message)
        else:
            raise Rejected("invalid", f"{kind or 'an unknown message'} has no place after Hello")

    async def _contribute(self, link: Link, message: wire.ParticipateRequest) -> None:
        """Accepted or Refused: either way the stream goes on."""
        scalars = message.WhichOneof("message") == "scalars"
        round = message.scalars.round if scalars else message.delta_ready.round
        try:
            try:
                given = (
                    codec.scalars_from_wire(message.scalars) if scalars else codec.delta_from_wire(message.delta_ready)
                )
            except ValueError as error:
                raise Rejected("malformed", str(error)) from error
            if not scalars:
                self._check_uploaded(message.delta_ready.sha256.hex())
            await self._coordinator.handle(ev.Contribute(link.client, given))
        except Rejected as rejected:
            refused = wire.Refused(round=round, reason=rejected.reason, detail=rejected.detail)
            link.send(wire.ParticipateResponse(refused=refused))
        else:
            link.send(wire.ParticipateResponse(accepted=wire.Accepted(round=round)))

    async def _farewell(self, link: Link) -> tuple[ev.Event, ...]:
        with contextlib.suppress(Unavailable):
            return await self._coordinator.handle(ev.Goodbye(link.client, link.epoch))
        return ()

    def _say_goodbye(self, link: Link) -> None:
        """In a task of its own: the call may be being cancelled."""
        task = asyncio.create_task(self._farewell(link))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
