"""A stream that must end now ends now, even where its reader has stalled."""

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

import grpc
import pytest

from zowarmup.common.messages.values import Tier
from zowarmup.server.core.errors import Rejected
from zowarmup.server.rpc.auth import abort, begin
from zowarmup.server.rpc.streams import ClientStream
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


@pytest.mark.parametrize("size", [1 << 20, 32 << 20], ids=["after some messages", "in the first one"])
def test_a_severed_stream_does_not_wait_for_a_reader_that_has_stalled(size: int) -> None:
    link = ClientStream("pi", Tier.LOW, 1, 0, "")
    refusals, ended = Counter[str](), list[float]()

    class Stubborn(services.CoordinatorServiceServicer):
        async def Participate(self, requests: object, context: Any) -> None:
            async def write() -> None:
                while True:
                    await context.write(wire.ParticipateResponse(fetch=wire.Fetch(reason="x" * size)))

            try:
                await begin(context)
                await link.until_severed(write())
                assert link.ended is not None
                await abort(context, link.ended, refusals)
            finally:
                ended.append(time.monotonic())

    async def script() -> None:
        server = grpc.aio.server()
        services.add_CoordinatorServiceServicer_to_server(Stubborn(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            call = stub.Participate()
            await asyncio.sleep(0.5)  # it reads nothing: the windows are full by now
            assert ended == []
            start = time.monotonic()
            link.sever(Rejected("revoked", "revoked"))
            while not ended:
                assert time.monotonic() < start + 10
                await asyncio.sleep(0.01)
            assert ended[0] - start < 3
            with contextlib.suppress(grpc.aio.AioRpcError):
                async with asyncio.timeout(30):
                    while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                        pass
            assert await call.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.CANCELLED)
            assert refusals == {"revoked": 1}
        await server.stop(0)

    asyncio.run(script())
