"""The answer to every call while the coordinator prepares its run.

The port is open from the start, so that one that is taken is found before a model is built, and stays open through a replay
of a long ledger. A call that comes before the run is ready waits a moment for it, and is then refused as UNAVAILABLE with
the reason "preparing"; whoever called tries again. Where many wait, the rest are refused at once, and all are where the
coordinator ends before it is ready. Health answers at once, with NOT_SERVING.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from zowarmup.server.rpc.auth import Context

HELD_S, MOST_HELD = 2.0, 1000
"""Most runs are ready soon, and then nobody has to come again. Shorter than any caller's patience."""
SENTENCE = "it is preparing the model and will answer when that is done"
_HEALTH = "/grpc.health."


class PreparingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Holds calls back until `ready` is set; `held`: how many wait now."""

    def __init__(self) -> None:
        self.ready, self.held = asyncio.Event(), 0
        self._over = False

    def end(self) -> None:
        """Refuse who waits and who comes. A call that is still held while its server stops, grpc shows as a traceback."""
        self._over = True
        self.ready.set()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if not self.ready.is_set() and not details.method.startswith(_HEALTH):
            self.held += 1
            try:
                async with asyncio.timeout(HELD_S if self.held <= MOST_HELD else 0):
                    await self.ready.wait()
            except TimeoutError:
                return grpc.stream_stream_rpc_method_handler(_refuse)
            finally:
                self.held -= 1
        if self._over:
            return grpc.stream_stream_rpc_method_handler(_refuse)
        return await continuation(details)


async def _refuse(requests: object, context: Context) -> None:
    """The answer to a call of any kind: it ends before anything is read."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, SENTENCE, (("zowarmup-reason", "preparing"),))
