"""Sample messages of a run, one of each exchange, encoded by the run's own codec.

A plan counts how often each conversation is held (`forecast`); what one costs is what the coordinator's counter makes of
it. Only the numbers inside are made up: slopes are drawn from a normal distribution, which decides how many bytes a tick
takes, and rounds are taken from all over the run, since a number's size depends on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.protocol import Algorithm, ClientScalars, Start
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Delta, Phase, Scalars, Tier, Work
from zowarmup.common.settings.run import PROTOCOL, SOFTWARE, ClientSpec, RunFile
from zowarmup.server.rpc.transfers import CHUNK_BYTES as DOWN_CHUNK_BYTES
from zowarmup.v1 import coordinator_pb2 as wire

UP_CHUNK_BYTES = 1 << 18
"""A client fits its chunks to its link; what they add is less than a thousandth whatever their length."""
NAME = "device-1"
DIGEST, SHA256, HEX = bytes(16), bytes(32), "0" * 64
WAITING = "waiting: 1 of 2 high-tier clients connected"
SEED = 0x5A5A5A5A5A5A5A5A


class Sized(Protocol):
    """A message."""

    def ByteSize(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Said:
    """One message: "up" or "down", its kind as the coordinator counts it, and its payload in bytes."""

    direction: str
    kind: str
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call's messages; `named`: whether the caller says who it is, `member`: whether its tier is known."""

    said: tuple[Said, ...]
    named: bool = True
    member: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """`calls`, those of each connection that is opened for it; `stream`: messages on a stream that is open anyhow."""

    calls: tuple[tuple[Call, ...], ...] = ()
    stream: tuple[Said, ...] = ()


@dataclass(frozen=True)
class Specimens:
    """Of a run whose clients hold `examples` each. `weights`: its first ones, float32 (layout.size,), and their `grid`."""

    run: RunFile
    spec: ClientSpec
    layout: Layout
    weights: NDArray[np.float32]
    grid: Grid
    program: bytes
    examples: int
    invited: bool = False

    @cached_property
    def weights_bytes(self) -> int:
        return 4 * self.layout.size

    def joining(self, tier: Tier) -> Conversation:
        """Asking what is trained, enrolling, and opening the stream."""
        offer = wire.GetRunResponse(
            protocol=PROTOCOL,
            run_id=HEX[:32],
            name=self.run.name,
            spec_json=self.spec.to_json(),
            layout_json=self.layout.to_json(),
            program_sha256=SHA256,
            program_bytes=len(self.program),
            high_memory_bytes=1 << 28,
            low_memory_bytes=1 << 27,
            now_s=1.0,
            software=SOFTWARE,
        )
        enrol = wire.EnrolRequest(
            run_id=HEX[:32],
            name=NAME,
            tier=codec.tier_to_wire(tier),
            examples=self.examples,
            token=HEX if self.invited else "",
            credential=HEX,
        )
        hello = wire.Hello(run_id=HEX[:32], protocol=PROTOCOL, examples=self.examples, software=SOFTWARE)
        phase = Phase.WARM_UP if self.run.warmup.rounds else Phase.ZEROTH_ORDER
        welcome = wire.Welcome(epoch=1, phase=codec.phase_to_wire(phase), waiting=WAITING, software=SOFTWARE)
        return Conversation(
            calls=(
                (_call(_up(wire.GetRunRequest(protocol=PROTOCOL)), _down(offer), named=False, member=False),),
                (_call(_up(enrol), _down(wire.EnrolResponse(client=NAME, credential=HEX)), named=False),),
                (
                    _call(
                        _up(wire.ParticipateRequest(hello=hello)),
                        _down(wire.ParticipateResponse(welcome=welcome)),
                    ),
                ),
            )
        )

    def training(self, tier: Tier, round: int, fetching: bool = True, phase: Phase = Phase.WARM_UP) -> Conversation:
        """A participant's part in a round of training: the model, where it does not have that version, and a delta of what
        its tier trains."""
        delta_bytes = self.algorithm(phase).uplink_bytes(tier, self.examples)
        chunks = _chunks(delta_bytes, UP_CHUNK_BYTES, lambda chunk: wire.UploadDeltaRequest(chunk=chunk))
        header = wire.DeltaHeader(round=round, digest=DIGEST, size_bytes=delta_bytes)
        begin = wire.UploadDeltaRequest(header=header)
        upload = [Said("up", "delta", size) for size in (begin.ByteSize(), *chunks)]
        asked = wire.GetUploadRequest(round=round, digest=DIGEST)
        delta = codec.delta_to_wire(Delta(round, DIGEST.hex(), self.examples, 1.5))
        return Conversation(
            calls=(
                *(((self._snapshot(round - 1),),) if fetching else ()),
                (
                    _call(_up(asked), _down(wire.GetUploadResponse())),
                    _call(*upload, _down(wire.UploadDeltaResponse(stored_bytes=delta_bytes))),
                ),
            ),
            stream=(
                self._work(round, phase),
                _up(wire.ParticipateRequest(delta_ready=delta), "contribution"),
                _accepted(round),
            ),
        )

    def catching_up(self, version: int) -> Conversation:
        """A whole replica for one whom steps do not lead to that version."""
        fetch = wire.Fetch(version=version, reason="it holds no replica")
        return Conversation(((self._snapshot(version),),), (_down(wire.ParticipateResponse(fetch=fetch)),))

    def fetching_program(self) -> Conversation:
        sizes = _chunks(len(self.program), DOWN_CHUNK_BYTES, lambda chunk: wire.FetchProgramResponse(chunk=chunk))
        return Conversation(((_call(*(Said("down", "program", size) for size in sizes)),),))

    def probing(self, tier: Tier, round: int) -> Conversation:
        """A participant's part in a zeroth-order round."""
        probes, projections = self._counts(tier)
        scalars = Scalars(round, (1.0,) * probes, (1.0,) * projections)
        contribution = wire.ParticipateRequest(scalars=codec.scalars_to_wire(scalars))
        return Conversation(
            stream=(self._work(round, Phase.ZEROTH_ORDER), _up(contribution, "contribution"), _accepted(round))
        )

    def committing(self, done: int, participants: Sequence[Tier]) -> Conversation:
        """What everyone hears of the zeroth-order round after `done` others, in which these took part."""
        commit = Commit(self.run.warmup.rounds + done + 1, DIGEST, self.steps(done, participants))
        message = wire.ParticipateResponse(commit=codec.commit_to_wire(commit, self.layout))
        return Conversation(stream=(_down(message, "commit"),))

    def steps(self, done: int, participants: Sequence[Tier]) -> tuple[Step, ...]:
        """What that round makes, by the run's own method."""
        chance, parts = np.random.default_rng(done), []
        for index, tier in enumerate(participants):
            probes, projections = (tuple(chance.normal(size=count).tolist()) for count in self._counts(tier))
            seed = SEED if self.spec.zeroth_order.shared_directions else SEED + index
            parts.append(ClientScalars(seed, self.examples, Scalars(done + 1, probes, projections), tier))
        return self._method.aggregate(Start(self.weights, self.grid, done), parts).steps(self.grid)

    def leaving(self) -> Conversation:
        """The end, and a last report."""
        version = self.run.warmup.rounds + self.run.zeroth_order.rounds
        finished = wire.ParticipateResponse(finished=wire.Finished(version=version, digest=DIGEST))
        return Conversation(stream=(_down(finished), *self.reporting(version).stream))

    def reporting(self, version: int) -> Conversation:
        """What a client says once in each phase that it contributes to."""
        report = wire.Report(version=version, digest=DIGEST, peak_memory_bytes=1 << 27)
        return Conversation(stream=(_up(wire.ParticipateRequest(report=report)),))

    def algorithm(self, phase: Phase) -> Algorithm:
        return algorithm_of(self.spec, phase, self.layout, self.spec.pool_seed)

    @cached_property
    def _method(self) -> Algorithm:
        return self.algorithm(Phase.ZEROTH_ORDER)

    def _counts(self, tier: Tier) -> tuple[int, int]:
        return self._method.counts(tier, self.examples)

    def _snapshot(self, version: int) -> Call:
        header = wire.SnapshotHeader(
            version=version,
            grid_exponent=self.grid.exponent,
            grid_ranges=[wire.GridRange(start=start, exponent=exponent) for start, exponent in self.grid.ranges],
            digest=DIGEST,
            size_bytes=self.weights_bytes,
        )
        first = wire.FetchSnapshotResponse(header=header).ByteSize()
        rest = _chunks(self.weights_bytes, DOWN_CHUNK_BYTES, lambda chunk: wire.FetchSnapshotResponse(chunk=chunk))
        return _call(*(Said("down", "snapshot", size) for size in (first, *rest)))

    def _work(self, round: int, phase: Phase) -> Said:
        locally = self.spec.zeroth_order.steps_locally and phase is Phase.ZEROTH_ORDER
        work = Work(round, phase, round - 1, SEED, 100.0, round - self.run.warmup.rounds - 1 if locally else 0)
        return _down(wire.ParticipateResponse(work=codec.work_to_wire(work)))


def _call(*said: Said, named: bool = True, member: bool = True) -> Call:
    return Call(said, named, member)


def _up(message: Sized, kind: str = "control") -> Said:
    return Said("up", kind, message.ByteSize())


def _down(message: Sized, kind: str = "control") -> Said:
    return Said("down", kind, message.ByteSize())


def _accepted(round: int) -> Said:
    return _down(wire.ParticipateResponse(accepted=wire.Accepted(round=round)))


def _chunks(content_bytes: int, chunk_bytes: int, framed: Callable[[bytes], Sized]) -> list[int]:
    """The sizes of the messages that carry so many bytes."""
    whole, rest = divmod(content_bytes, chunk_bytes)
    sizes = [framed(bytes(chunk_bytes)).ByteSize()] * whole
    return [*sizes, framed(bytes(rest)).ByteSize()] if rest else sizes
