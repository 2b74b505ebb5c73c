"""Control-plane RPCs: GetRun, Enrol, Participate."""

import asyncio
import contextlib
import secrets
from dataclasses import replace

from zowarmup.common.messages import codec
from zowarmup.common.messages.masking import Given
from zowarmup.common.messages.values import Abstention, Delta
from zowarmup.common.settings.run import PROTOCOL, SOFTWARE, ClientSpec
from zowarmup.common.text import blanked
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import is_good, member_with
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.core.state import State
from zowarmup.server.projections.traffic import CallTraffic, Traffic
from zowarmup.server.rpc.auth import (
    Admission,
    Context,
    begin,
    check_name,
    check_protocol,
    check_run,
    check_secret,
    hash_secret,
)
from zowarmup.server.rpc.bulk import BulkCalls
from zowarmup.server.rpc.limits import CALL_LIMITS, CallLimits, MessageTooLong, RateLimiter
from zowarmup.server.rpc.strangers import Strangers
from zowarmup.server.rpc.streams import ClientStream, StreamRegistry, framed
from zowarmup.server.store.blobs import BlobStore
from zowarmup.server.store.uploads import UploadStore
from zowarmup.v1 import coordinator_pb2 as wire

RETRY_S = 1.0
LONGEST_SOFTWARE = 64


class CoordinatorService(BulkCalls):
    """What a client needs of a coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: BlobStore,
        stream_registry: StreamRegistry,
        traffic: Traffic,
        admission: Admission,
        uploads: UploadStore,
        rate_limiter: RateLimiter,
        strangers: Strangers,
        call_limits: CallLimits = CALL_LIMITS,
    ) -> None:
        super().__init__(coordinator, blobs, traffic, admission, uploads, rate_limiter, call_limits)
        self._stream_registry, self._strangers = stream_registry, strangers
        self._offer = _offer(coordinator.state)
        self._farewells: set[asyncio.Task[tuple[ev.Event, ...]]] = set()

    async def GetRun(self, request: wire.GetRunRequest, context: Context) -> wire.GetRunResponse:
        async with self._admission.refusing(context):
            check_protocol(request.protocol, PROTOCOL)
        answer = wire.GetRunResponse(now_s=self._coordinator.date())
        answer.MergeFrom(self._offer)
        line = self._traffic.call(context.peer())
        line.up("control", request.ByteSize())
        line.down("control", answer.ByteSize())
        return answer

    async def Enrol(self, request: wire.EnrolRequest, context: Context) -> wire.EnrolResponse:
        async with self._admission.refusing(context):
            token = hash_secret(request.token) if request.token else ""  # by a hash, time tells nothing of the secret
            today, invited = self._coordinator.date(), self._admission.invited
            if not is_good(self._coordinator.state, token, today):
                self._strangers.spend(context.peer())
            check_run(request.run_id, self._coordinator.state.run_id)
            check_name(request.name)
            if not 1 <= request.examples < 1 << 48:
                raise Rejected("invalid", f"examples = {request.examples}: must be at least 1")
            tier = codec.tier_from_wire(request.tier)
            for field, secret in (("token", request.token), ("credential", request.credential)):
                if secret:
                    check_secret(field, secret)
            if len(request.identity) not in (0, 32):
                raise Rejected("invalid", f"identity: {len(request.identity)} bytes, a public Ed25519 key has 32")
            credential = request.credential or secrets.token_hex(32)
            hashed = hash_secret(credential)
            self._rate_limiter.enrol()
            await self._coordinator.handle(
                cmd.Enrol(request.name, tier, request.examples, hashed, token, invited, today, request.identity.hex())
            )
            client = member_with(self._coordinator.state, hashed)
            assert client is not None
            answer = wire.EnrolResponse(client=client, credential=credential)
            line = self._traffic.call(context.peer(), tier)
            line.up("control", request.ByteSize())
            line.down("control", answer.ByteSize())
        return answer

    async def Participate(self, requests: object, context: Context) -> None:
        async with self._admission.refusing(context):
            name, client, line = await self._caller(context)
            first = await self._first(context)
            if not isinstance(first, wire.ParticipateRequest) or first.WhichOneof("message") != "hello":
                raise Rejected("invalid", "the first message on a stream must be a Hello")
            hello = first.hello
            check_protocol(hello.protocol, PROTOCOL)
            check_run(hello.run_id, self._coordinator.state.run_id)
            if not 1 <= hello.examples < 1 << 48 or len(hello.digest) not in (0, 16):
                raise Rejected("invalid", "hello: examples must be at least 1 and the digest 16 bytes or none")
            line.up("control", first.ByteSize())
            link = self._stream_registry.open(name, client.tier, hello.version, hello.digest.hex())
            reader: asyncio.Task[None] | None = None
            try:
                await self._coordinator.handle(self._hello(link, hello))
                lead = self._coordinator
                self._stream_registry.welcome(link, lead.state, lead.clock(), lead.waiting)
                reader = asyncio.create_task(self._read(link, line, context))
                await begin(context)
                await link.until_severed(self._write(link, line, context), self._call_limits.stream_s)
            finally:
                if reader is not None:
                    reader.cancel()
                self._stream_registry.close(link)
                self._say_goodbye(link)
        if link.ended is not None:
            await self._admission.refuse(context, link.ended)

    def _hello(self, link: ClientStream, hello: wire.Hello) -> cmd.ConnectClient:
        software = blanked(hello.software[:LONGEST_SOFTWARE])
        return cmd.ConnectClient(link.client, link.epoch, hello.examples, hello.version, hello.digest.hex(), software)

    async def _first(self, context: Context) -> object:
        """The first message of a stream, which must come soon."""
        try:
            async with asyncio.timeout(self._call_limits.hello_s):
                first = await context.read()
        except TimeoutError:
            raise Rejected("too_slow", f"no Hello within {self._call_limits.hello_s:g} s") from None
        if isinstance(first, MessageTooLong):
            raise first.rejected()
        return first

    async def _write(self, link: ClientStream, line: CallTraffic, context: Context) -> None:
        clock = asyncio.get_running_loop().time
        while (message := await link.queue.get()) is not None:
            if isinstance(message, bytes):
                kind, message = "commit", framed(message)
            else:
                kind, message = "control", message.SerializeToString()
            line.down(kind, len(message))
            link.writing_since = clock()
            await context.write(message)
            link.writing_since = 0.0

    async def _read(self, link: ClientStream, line: CallTraffic, context: Context) -> None:
        ended: Rejected | None = None
        try:
            while isinstance(message := await context.read(), wire.ParticipateRequest | MessageTooLong):
                if isinstance(message, MessageTooLong):
                    raise message.rejected()
                self._rate_limiter.spend(link.client)
                await self._hear(link, line, message)
        except Rejected as rejected:
            ended = rejected
        except Unavailable as error:
            ended = Rejected("unavailable", f"{error}; nothing has changed, reconnect to try again")
        finally:
            link.end(ended)

    async def _hear(self, link: ClientStream, line: CallTraffic, message: wire.ParticipateRequest) -> None:
        kind = message.WhichOneof("message")
        contribution = kind in ("scalars", "delta_ready", "keys", "masking_step")
        line.up("contribution" if contribution else "control", message.ByteSize())
        if kind == "report":
            report = message.report
            if len(report.digest) not in (0, 16):
                raise Rejected("invalid", "report: the digest must be 16 bytes, or none where there is no replica")
            version = report.version if report.digest else 0
            await self._coordinator.handle(
                cmd.RecordReport(link.client, version, report.digest.hex(), report.peak_memory_bytes)
            )
        elif kind == "masking_step":
            await self._take_step(link, message.masking_step)
        elif contribution:
            await self._contribute(link, message)
        elif kind == "abstention":
            await self._abstain(link, message.abstention)
        else:
            raise Rejected("invalid", f"{kind or 'an unknown message'} has no place after Hello")

    async def _contribute(self, link: ClientStream, message: wire.ParticipateRequest) -> None:
        """Accepted or Refused: either way the stream goes on."""
        kind = message.WhichOneof("message")
        given: Given
        try:
            try:
                if kind == "scalars":
                    round, given = message.scalars.round, codec.scalars_from_wire(message.scalars)
                elif kind == "keys":
                    round, given = message.keys.round, codec.keys_from_wire(message.keys)
                else:
                    round, given = message.delta_ready.round, codec.delta_from_wire(message.delta_ready)
            except ValueError as error:
                raise Rejected("malformed", str(error)) from error
            with contextlib.ExitStack() as stack:
                if isinstance(given, Delta):
                    stack.enter_context(self._uploads.naming(link.client, given.round, given.digest))
                await self._coordinator.handle(cmd.Contribute(link.client, given))
        except Rejected as rejected:
            self._refuse(link, round, rejected)
            if rejected.reason == "malformed" and round:
                # Its round would wait for another one, and there will be none.
                await self._give_up(link, Abstention.of(round, f"its contribution was refused: {rejected.detail}"))
        else:
            link.send(wire.ParticipateResponse(accepted=wire.Accepted(round=round)))

    async def _take_step(self, link: ClientStream, message: wire.MaskingStep) -> None:
        """Answered by what comes next alone, unless it is refused."""
        try:
            try:
                step = codec.step_from_wire(message)
            except ValueError as error:
                raise Rejected("malformed", str(error)) from error
            await self._coordinator.handle(cmd.TakeStep.of(link.client, step))
        except Rejected as rejected:
            self._refuse(link, message.round, rejected)
            if rejected.reason == "malformed" and message.round:
                why = f"what it sent for a stage was refused: {rejected.detail}"
                await self._give_up(link, Abstention.of(message.round, why))

    async def _abstain(self, link: ClientStream, message: wire.Abstention) -> None:
        try:
            abstention = codec.abstention_from_wire(message)
        except ValueError as error:
            self._refuse(link, message.round, Rejected("malformed", str(error)))
        else:
            await self._give_up(link, abstention)

    def _refuse(self, link: ClientStream, round: int, rejected: Rejected) -> None:
        """Answer a contribution or an abstention; the stream goes on."""
        self._admission.refusals[rejected.reason] += 1
        refused = wire.Refused(round=round, reason=rejected.reason, detail=rejected.detail)
        link.send(wire.ParticipateResponse(refused=refused))

    async def _give_up(self, link: ClientStream, abstention: Abstention) -> None:
        with contextlib.suppress(Rejected):  # for a round that is over it says nothing any more
            await self._coordinator.handle(cmd.Abstain(link.client, abstention))

    async def _farewell(self, link: ClientStream) -> tuple[ev.Event, ...]:
        """However long the disk refuses: a round must not wait for one who has left."""
        while True:
            with contextlib.suppress(Unavailable):
                return await self._coordinator.handle(cmd.DisconnectClient(link.client, link.epoch))
            await asyncio.sleep(RETRY_S)

    def _say_goodbye(self, link: ClientStream) -> None:
        """In a task of its own: the call may be being cancelled."""
        task = asyncio.create_task(self._farewell(link))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


def _offer(state: State) -> wire.GetRunResponse:
    """What GetRun answers but for the time: made once, as anyone may ask."""
    run, program = state.run_file, state.program
    spec = ClientSpec.of(run, program.card, pool_seed(run.seed), program.architecture)
    spec = replace(spec, model=run.model.public)
    return wire.GetRunResponse(
        protocol=PROTOCOL,
        run_id=state.run_id,
        name=run.name,
        spec_json=spec.to_json(),
        layout_json=program.layout,
        program_sha256=bytes.fromhex(program.sha256),
        program_bytes=program.size_bytes,
        high_memory_bytes=program.high_memory_bytes,
        low_memory_bytes=program.low_memory_bytes,
        software=SOFTWARE,
        artifacts=[
            wire.Artifact(name=a.name, sha256=bytes.fromhex(a.sha256), size_bytes=a.size_bytes)
            for a in program.artifacts
        ],
    )
