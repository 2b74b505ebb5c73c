"""A chunk is found where it lies exactly where parsing would find it and nothing else. A reason is one line, in bounds.
Scalars are of one precision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.messages.codec import (
    abstention_from_wire,
    abstention_to_wire,
    chunk_in,
    scalars_from_wire,
    scalars_to_wire,
    work_from_wire,
    work_to_wire,
)
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import LONGEST_REASON, Abstention, Phase, Scalars, Work
from zowarmup.v1 import coordinator_pb2 as wire


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 1 << 18, (1 << 21) + 1])
def test_a_chunk_alone_is_found_without_a_copy(size: int) -> None:
    chunk = bytes(range(251)) * (size // 251 + 1)
    data = wire.UploadDeltaRequest(chunk=chunk[:size]).SerializeToString()
    found = chunk_in(data)
    assert found is not None
    assert found == chunk[:size]
    assert found.obj is data
    assert wire.FetchSnapshotResponse(chunk=chunk[:size]).SerializeToString() == data


def test_any_other_message_is_left_to_be_parsed() -> None:
    header = wire.DeltaHeader(round=1, digest=bytes(16), size_bytes=9)
    both = wire.UploadDeltaRequest(header=header, chunk=b"chunk").SerializeToString()
    for data in (b"", b"\x12", both, wire.UploadDeltaRequest(header=header).SerializeToString()):
        assert chunk_in(data) is None


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\x12" + tail))
def test_what_is_found_in_any_bytes_is_what_parsing_finds(data: bytes) -> None:
    if (found := chunk_in(data)) is not None:
        parsed = wire.UploadDeltaRequest.FromString(data)
        assert parsed.chunk == found
        assert not parsed.HasField("header")


@given(st.integers(1, 2**64 - 1), st.text())
def test_whatever_goes_wrong_fits_an_abstention(round: int, why: str) -> None:
    made = Abstention.of(round, ValueError(why))
    assert abstention_from_wire(abstention_to_wire(made)) == made
    if why.strip().isprintable() and 0 < len(why.strip()) <= LONGEST_REASON:
        assert made.reason == why.strip()


@given(st.integers(1, 2**64 - 1), st.text())
def test_a_reason_that_would_spoil_a_log_is_made_to_fit(round: int, reason: str) -> None:
    found = abstention_from_wire(wire.Abstention(round=round, reason=reason))
    assert found.reason.isprintable() and 1 <= len(found.reason) <= LONGEST_REASON
    assert abstention_from_wire(abstention_to_wire(found)) == found


def test_an_abstention_is_about_a_round() -> None:
    with pytest.raises(ValueError, match="round 0 must be at least 1"):
        abstention_from_wire(wire.Abstention(reason="why"))


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("byte", 1), ("nibble", 0.5)])
def test_scalars_travel_in_their_precision(precision: str, size: float) -> None:
    values = tuple(float(level) for level in (-12, 0, 1, 2, 3, 4, 6, 8)) * 4
    scalars = Scalars(5, values, (0.5,), precision=Precision(precision))
    message = scalars_to_wire(scalars)
    assert scalars_from_wire(wire.Scalars.FromString(message.SerializeToString())) == scalars
    alone = scalars_to_wire(Scalars(5, (), (0.5,), precision=Precision(precision)))
    assert message.ByteSize() - alone.ByteSize() == pytest.approx(size * len(values), abs=3)
    assert scalars_from_wire(alone).probes == ()


@pytest.mark.parametrize(
    "message",
    [
        wire.Scalars(round=1, probes=[1.0], projection_bytes=b"\x80\x01"),
        wire.Scalars(round=1, probe_bytes=b"\x80\x01", projection_nibbles=b"\x80\x11"),
        wire.Scalars(round=1, projections=[1.0], probe_nibbles=b"\x80\x11"),
    ],
)
def test_scalars_of_several_precisions_are_refused(message: wire.Scalars) -> None:
    with pytest.raises(ValueError, match="of more than one precision"):
        scalars_from_wire(message)


def test_work_says_what_trace_it_belongs_to_and_costs_no_byte_where_there_is_none() -> None:
    plain = Work(3, Phase.ZEROTH_ORDER, 2, 1 << 63, 12.5)
    traced = Work(3, Phase.ZEROTH_ORDER, 2, 1 << 63, 12.5, trace_parent=bytes(range(25)))
    assert work_from_wire(work_to_wire(plain)) == plain and work_from_wire(work_to_wire(traced)) == traced
    assert work_to_wire(traced).ByteSize() - work_to_wire(plain).ByteSize() == 25 + 2
    assert wire.Work.DESCRIPTOR.fields_by_name["trace_parent"].number not in {
        field.number for field, _ in work_to_wire(plain).ListFields()
    }
    with pytest.raises(ValueError, match="trace_parent has 24 bytes: must have 25 or none"):
        work_from_wire(wire.Work(round=1, phase=wire.PHASE_WARM_UP, trace_parent=bytes(24)))
