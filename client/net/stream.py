"""The open stream between a client and its coordinator, messages in and out as values; and the meaning of a failed call.

What a failed call says becomes one of `errors`: whose fault it is, and a sentence for people. The coordinator says its word for
programs in the trailing metadata; what grpc itself has to say is put in words that name the option to look at. What is said is
counted by a meter.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from zowarmup.client.errors import Broken, CoordinatorStops, Declined, Distrust, Final, StillPreparing, Unreached
from zowarmup.client.net.messages import Accepted, Fetch, Finished, Message, Refused, Report, Saying, Welcome
from zowarmup.client.net.tls import distrusted, shut
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages import codec
from zowarmup.common.messages.masking import Keys, MaskingStep
from zowarmup.common.messages.values import Abstention, Delta, Scalars
from zowarmup.common.untrusted import require_few_fields
from zowarmup.v1 import coordinator_pb2 as wire

FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
}
FINAL_IN_BULK = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
DECLINED_IN_BULK = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
}

# Without a word for programs beside them, these are grpc's own: nobody answered.
SILENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}


@contextmanager
def faults(final: AbstractSet[grpc.StatusCode], declined: AbstractSet[grpc.StatusCode] = frozenset()) -> Iterator[None]:
    """Map a failed call to Final, Declined, Distrust or Broken.

    Args:
        final: The codes that are Final.
        declined: The codes that are Declined.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), (error.details() or error.code().name).strip()
        trailing: Any = error.trailing_metadata() or ()
        reason = dict(trailing).get("zowarmup-reason")
        if reason == "superseded":
            raise Final(
                "another process takes part with this device's identity and has taken its place: stop one of the two"
            ) from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Final(
                f"no coordinator of this kind answers there ({details}): check --server and both versions"
            ) from None
        if reason == "preparing":
            raise StillPreparing(details) from None
        if reason == "stopping":
            raise CoordinatorStops(details) from None
        if reason == "offset":  # more had arrived than it said: ask where to go on
            raise Broken(details) from None
        if code in final:
            raise Final(details) from None
        if code in declined:
            raise Declined(details, reason or "") from None
        if code is grpc.StatusCode.UNAVAILABLE and (sentence := distrusted(details)):
            raise Distrust(sentence) from None
        if sentence := shut(details):
            raise Unreached(sentence) from None
        kind = Broken if reason or code not in SILENT else Unreached
        # When a connection cannot be made, grpc's long sentence ends in the system's short one.
        raise kind(details.rpartition(": ")[2] if "last error: " in details else details) from None


# How many commits a Reader remembers; streams that share one are at most some rounds apart.
COMMITS_KEPT = 4
# The tag that a ParticipateResponse with a commit begins with.
_COMMIT = bytes([wire.ParticipateResponse.COMMIT_FIELD_NUMBER << 3 | 2])


@dataclass(slots=True)
class Meter:
    """Payload bytes of streams and bulk calls.

    Args:
        up_bytes: Sent so far.
        down_bytes: Received so far.
        require: Called with the number of bytes that are to be sent, and with 0 after some have come; raises Setback where
            there may be no more.
    """

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
            case Keys():
                request = wire.ParticipateRequest(keys=codec.keys_to_wire(saying))
            case MaskingStep():
                request = wire.ParticipateRequest(masking_step=codec.step_to_wire(saying))
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
        case "masking_ask":
            return codec.ask_from_wire(answer.masking_ask)
    raise ValueError("a message of a kind it does not know")
