"""Members that lie about how many examples they hold, or about how far they have come: hostile peers over real calls.

The coordinator combines as `server.main` wires it, from uploads on a disk; the version that it commits is compared with what one
member could have made of it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from tests.faults.small import EXAMPLES, LAYOUT, run_file
from tests.fuzz.hostile import coordinator, secret
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

MOST = (1 << 48) - 1
Vector = NDArray[np.float32]


class Peer:
    """A member of the high tier that says what it likes."""

    def __init__(self, stub: Any, name: str) -> None:
        self._stub, self._who = stub, (("zowarmup-client", name), ("zowarmup-credential", secret(name)))
        self._stream: Any = None

    async def connect(self, run_id: str, claim: int) -> None:
        self._stream = self._stub.Participate(metadata=self._who)
        hello = wire.Hello(run_id=run_id, protocol=PROTOCOL, examples=claim)
        await self._stream.write(wire.ParticipateRequest(hello=hello))
        assert (await self._stream.read()).WhichOneof("message") == "welcome"

    async def contribute(self, round: int, delta: Vector, examples: int) -> None:
        content = delta.tobytes()
        digest = xxhash.xxh3_128_digest(content)

        async def whole() -> AsyncIterator[wire.UploadDeltaRequest]:
            header = wire.DeltaHeader(round=round, digest=digest, size_bytes=len(content))
            yield wire.UploadDeltaRequest(header=header)
            yield wire.UploadDeltaRequest(chunk=content)

        await self._stub.UploadDelta(whole(), metadata=self._who)
        ready = wire.DeltaReady(round=round, digest=digest, examples=examples, loss=0.5)
        await self._stream.write(wire.ParticipateRequest(delta_ready=ready))
        while (message := await self._stream.read()).WhichOneof("message") not in ("accepted", "refused"):
            pass
        assert message.WhichOneof("message") == "accepted"

    def leave(self) -> None:
        self._stream.cancel()


def moved(folder: Path, claims: Sequence[int], deltas: Sequence[Vector]) -> tuple[Vector, Vector]:
    """The weights before and after the warm-up's second round, in which each member claims so many examples and sends that
    delta. In the first, all are honest and send nothing but zeros."""
    names = [f"high-{number + 1}" for number in range(len(deltas))]
    fleet = dict.fromkeys(names, Tier.HIGH)

    async def run() -> tuple[Vector, Vector]:
        async with (
            coordinator(folder, run_file(fleet), fleet=fleet) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            combining = asyncio.create_task(life.round_jobs.run())
            stub: Any = services.CoordinatorServiceStub(channel)
            peers = [Peer(stub, name) for name in names]
            for peer, claim in zip(peers, claims, strict=True):
                await peer.connect(life.coordinator.state.run_id, claim)
            for peer in peers:
                await peer.contribute(1, np.zeros(LAYOUT.size, np.float32), EXAMPLES)
            await life.until(lambda state: state.version == 1 and state.current is not None)
            before = life.replica.weights.copy()
            for peer, claim, delta in zip(peers, claims, deltas, strict=True):
                await peer.contribute(2, delta, claim)
            await life.until(lambda state: state.version == 2)
            after = life.replica.weights.copy()
            for peer in peers:
                peer.leave()
            combining.cancel()
            await asyncio.gather(combining, return_exceptions=True)
            return before, after

    return asyncio.run(asyncio.wait_for(run(), 60))


def unit(seed: int) -> Vector:
    """Of length 1."""
    drawn = np.random.default_rng(seed).normal(size=LAYOUT.size)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def test_one_of_three_does_not_move_the_model_by_all_of_its_delta_by_claiming_examples(tmp_path: Path) -> None:
    deltas = [unit(1), unit(2), unit(3)]
    before, after = moved(tmp_path, [EXAMPLES, EXAMPLES, MOST], deltas)
    share = float((after - before).astype(np.float64) @ deltas[2])
    assert share == pytest.approx(0.5, abs=0.05), "it has half, where 0.33 were its due and 1.00 were its claim"


@pytest.mark.parametrize("members", [1, 2])
def test_where_nobody_can_be_an_outlier_the_model_moves_by_its_own_size_at_most(tmp_path: Path, members: int) -> None:
    deltas = [1e6 * unit(3), unit(1)][:members]
    before, after = moved(tmp_path, [MOST, EXAMPLES][:members], deltas)
    assert float(np.linalg.norm(after - before)) <= 1.001 * float(np.linalg.norm(before))
    assert np.isfinite(after).all()


def test_a_claim_that_changes_is_in_the_ledger(tmp_path: Path) -> None:
    moved(tmp_path, [EXAMPLES, MOST], [unit(1), unit(2)])
    ledger = Ledger(tmp_path / "server" / LEDGER)
    try:
        changes = [event for _, event in ledger.read() if isinstance(event, ev.ExamplesChanged)]
    finally:
        ledger.close()
    assert changes == [ev.ExamplesChanged("high-2", MOST, EXAMPLES)]
