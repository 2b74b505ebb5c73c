"""The open stream between a client and its coordinator: messages in and out, as values.

Every way in which it ends is one of `faults`. What is said is counted by a meter.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from zowarmup.client.faults import Broken
from zowarmup.client.messages import Accepted, Fetch, Finished, Message, Refused, Report, Saying, Welcome
from zowarmup.client.statuses import FINAL, faults
from zowarmup.common import codec
from zowarmup.common.field_count import require_few_fields
from zowarmup.common.layout import Layout
from zowarmup.common.work import Abstention, Delta, Scalars
from zowarmup.v1 import coordinator_pb2 as wire

# How many commits a Reader remembers; streams that share one are at most some rounds apart.
COMMITS_KEPT = 4
# The tag that a ParticipateResponse with a commit begins with.
_COMMIT = bytes([wire.ParticipateResponse.COMMIT_FIELD_NUMBER << 3 | 2])


@dataclass(slots=True)
class Meter:
    """Payload bytes of streams and bulk calls, each way. `require`: asked before so many more bytes are sent, and with 0
    after some have come; raises Setback where there may be no more."""

    up_bytes: int = 0
    down_bytes: int = 0
    require: Callable[[int], None] = lambda coming: None

    def received(self, count: int) -> None:
        """Count bytes that have come. Raises Setback where no more may come."""
        self.down_bytes += count
        self.require(0)


class Stream:
    """An open Participate stream: iterate over the coordinator's messages, `say` things to it."""

    def __init__(self, call: Any, reader: "Reader", meter: Meter) -> None:
        self._call, self._reader, self._meter = call, reader, meter

    async def say(self, saying: Saying) -> int:
        """Send one message; its payload in bytes. Raises Broken where the stream is down."""
        match saying:
            case Scalars():
                request = wire.ParticipateRequest(scalars=codec.scalars_to_wire(saying))
            case Delta():
                request = wire.ParticipateRequest(delta_ready=codec.delta_to_wire(saying))
            case Abstention():
                request = wire.ParticipateRequest(abstention=codec.abstention_to_wire(saying))
            case Report(position, peak):
                report = wire.Report(version=position.version, digest=position.digest, peak_memory_bytes=peak)
                request = wire.ParticipateRequest(report=report)
        await self.write(request)
        return request.ByteSize()

    async def write(self, request: wire.ParticipateRequest) -> None:
        self._meter.up_bytes += request.ByteSize()
        await self._while_open(self._call.write(request))

    async def leave(self) -> None:
        """Nothing more will be said; the coordinator then ends the stream. Raises Broken where it is down."""
        await self._while_open(self._call.done_writing())

    def cancel(self) -> None:
        """End the stream at once, where it has not ended: its channel may go on."""
        self._call.cancel()

    async def _while_open(self, doing: Awaitable[None]) -> None:
        with faults(FINAL):
            try:
                await doing
            except asyncio.InvalidStateError:  # the call ended before: its reader says how
                raise Broken("the stream has ended") from None

    async def __aiter__(self) -> AsyncIterator[Message]:
        with faults(FINAL):
            while (answer := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self._meter.received(len(answer))
                try:
                    message = self._reader.read(answer)
                except ValueError as error:
                    raise Broken(f"the coordinator sent what this client cannot read ({error})") from None
                yield message


class Reader:
    """Makes messages of a stream's bytes. Where many streams share one, a commit that comes along each of them is read
    once and held once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._commits: deque[tuple[bytes, Message]] = deque(maxlen=COMMITS_KEPT)

    def read(self, data: bytes) -> Message:
        """Raises ValueError where the bytes are not a valid message."""
        if data[:1] != _COMMIT:
            return _message(_parsed(data), self._layout)
        for seen, commit in self._commits:
            if seen == data:
                return commit
        message = _message(_parsed(data), self._layout)
        self._commits.append((data, message))
        return message


def parsed(data: bytes, kind: Any, most: int, what: str) -> Any:
    """The message of a kind, with at most `most` fields. Raises ValueError where the bytes are no such message."""
    require_few_fields(data, kind.DESCRIPTOR, most, what)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _parsed(data: bytes) -> wire.ParticipateResponse:
    answer: wire.ParticipateResponse = parsed(
        data, wire.ParticipateResponse, codec.MOST_FIELDS, "what the coordinator says"
    )
    return answer


def _message(answer: wire.ParticipateResponse, layout: Layout) -> Message:
    """Raises ValueError where the message is not valid."""
    match answer.WhichOneof("message"):
        case "welcome":
            welcome = answer.welcome
            phase = codec.phase_from_wire(welcome.phase)
            return Welcome(welcome.epoch, phase, welcome.version, welcome.waiting, welcome.software)
        case "work":
            return codec.work_from_wire(answer.work)
        case "commit":
            return codec.commit_from_wire(answer.commit, layout)
        case "fetch":
            return Fetch(answer.fetch.version, answer.fetch.reason)
        case "accepted":
            return Accepted(answer.accepted.round)
        case "refused":
            return Refused(answer.refused.round, answer.refused.reason, answer.refused.detail)
        case "finished":
            return Finished(answer.finished.version, answer.finished.digest, answer.finished.gave_up)
    raise ValueError("a message of a kind it does not know")
