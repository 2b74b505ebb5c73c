"""Conversion between the wire's messages and our values.

Values check themselves, so a message from the network becomes a valid value or a ValueError that names the field;
nothing else in the system trusts a message.
"""

from google.protobuf.message import DecodeError

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.masking import Keys, MaskingAsk, MaskingStep
from zowarmup.common.messages.small_floats import Precision, pack, unpack
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier, Work
from zowarmup.common.secure_aggregation.roster import RosterMember, Stage
from zowarmup.common.untrusted import require_few_fields
from zowarmup.v1 import coordinator_pb2 as wire

_TIERS = {Tier.HIGH: wire.TIER_HIGH, Tier.LOW: wire.TIER_LOW}
_PHASES = {
    Phase.WARM_UP: wire.PHASE_WARM_UP,
    Phase.ZEROTH_ORDER: wire.PHASE_ZEROTH_ORDER,
    Phase.FINISHED: wire.PHASE_FINISHED,
}
_STAGES = {
    Stage.SHARES: wire.MASKING_STAGE_SHARES,
    Stage.MASKED: wire.MASKING_STAGE_MASKED,
    Stage.SIGNED: wire.MASKING_STAGE_SIGNED,
    Stage.REVEALED: wire.MASKING_STAGE_REVEALED,
}
MOST_FIELDS = 1 << 20
"""Of a message from a coordinator: steps of a quarter of a million contributions."""
CHUNK_TAG = wire.UploadDeltaRequest.CHUNK_FIELD_NUMBER << 3 | 2
"""How a message begins that holds a chunk and nothing before it."""
_TIERS_BACK = {number: tier for tier, number in _TIERS.items()}
_STAGES_BACK = {number: stage for stage, number in _STAGES.items()}
_PHASES_BACK = {number: phase for phase, number in _PHASES.items()}


def tier_to_wire(tier: Tier) -> wire.Tier:
    return _TIERS[tier]


def tier_from_wire(number: int) -> Tier:
    try:
        return _TIERS_BACK[number]  # type: ignore[index]
    except KeyError:
        raise ValueError(f"tier: {number} is neither TIER_HIGH nor TIER_LOW") from None


def phase_to_wire(phase: Phase) -> wire.Phase:
    return _PHASES[phase]


def phase_from_wire(number: int) -> Phase:
    try:
        return _PHASES_BACK[number]  # type: ignore[index]
    except KeyError:
        raise ValueError(f"phase: {number} is not a phase") from None


def work_to_wire(work: Work) -> wire.Work:
    return wire.Work(
        round=work.round,
        phase=phase_to_wire(work.phase),
        version=work.version,
        seed=work.seed,
        deadline_s=work.deadline_s,
        done=work.done,
        rate_factor=work.rate_factor if work.rate_factor != 1 else 0.0,
        trace_parent=work.trace_parent,
    )


def work_from_wire(message: wire.Work) -> Work:
    return Work(
        round=message.round,
        phase=phase_from_wire(message.phase),
        version=message.version,
        seed=message.seed,
        deadline_s=message.deadline_s,
        done=message.done,
        rate_factor=message.rate_factor or 1.0,
        trace_parent=message.trace_parent,
    )


def scalars_to_wire(scalars: Scalars) -> wire.Scalars:
    if scalars.precision is Precision.FLOAT32:
        return wire.Scalars(round=scalars.round, probes=scalars.probes, projections=scalars.projections)
    probes, projections = (pack(values, scalars.precision) for values in (scalars.probes, scalars.projections))
    if scalars.precision is Precision.BYTE:
        return wire.Scalars(round=scalars.round, probe_bytes=probes, projection_bytes=projections)
    return wire.Scalars(round=scalars.round, probe_nibbles=probes, projection_nibbles=projections)


def scalars_from_wire(message: wire.Scalars) -> Scalars:
    """Raises ValueError where scalars are of more than one precision, or bytes stand for none."""
    packed = {
        Precision.BYTE: (message.probe_bytes, message.projection_bytes),
        Precision.NIBBLE: (message.probe_nibbles, message.projection_nibbles),
    }
    found = [precision for precision, kinds in packed.items() if any(kinds)]
    if not found:
        return Scalars(message.round, tuple(message.probes), tuple(message.projections))
    if len(found) > 1 or message.probes or message.projections:
        raise ValueError("scalars: they are of more than one precision")
    probes, projections = (unpack(data, found[0]) for data in packed[found[0]])
    return Scalars(message.round, probes, projections, precision=found[0])


def keys_to_wire(keys: Keys) -> wire.Keys:
    return wire.Keys(round=keys.round, keys=bytes.fromhex(keys.keys))


def keys_from_wire(message: wire.Keys) -> Keys:
    return Keys(message.round, message.keys.hex())


def step_to_wire(step: MaskingStep) -> wire.MaskingStep:
    return wire.MaskingStep(round=step.round, stage=_STAGES[step.stage], body=step.body)


def step_from_wire(message: wire.MaskingStep) -> MaskingStep:
    return MaskingStep(message.round, _stage_from_wire(message.stage), message.body)


def ask_to_wire(ask: MaskingAsk) -> wire.MaskingAsk:
    members = [
        wire.MaskingMember(client=one.client, examples=one.examples, identity=one.identity, keys=one.keys)
        for one in ask.members
    ]
    return wire.MaskingAsk(
        round=ask.round,
        stage=_STAGES[ask.stage],
        members=members,
        bounds=ask.bounds,
        present=ask.present,
        body=ask.body,
    )


def ask_from_wire(message: wire.MaskingAsk) -> MaskingAsk:
    members = tuple(RosterMember(one.client, one.examples, one.identity, one.keys) for one in message.members)
    stage, bounds, present = _stage_from_wire(message.stage), tuple(message.bounds), tuple(message.present)
    return MaskingAsk(message.round, stage, members, bounds, present, message.body)


def _stage_from_wire(number: int) -> Stage:
    try:
        return _STAGES_BACK[number]  # type: ignore[index]
    except KeyError:
        raise ValueError(f"masking: {number} is no stage") from None


def delta_to_wire(delta: Delta) -> wire.DeltaReady:
    return wire.DeltaReady(
        round=delta.round, digest=bytes.fromhex(delta.digest), examples=delta.examples, loss=delta.loss
    )


def delta_from_wire(message: wire.DeltaReady) -> Delta:
    return Delta(message.round, message.digest.hex(), message.examples, message.loss)


def abstention_to_wire(abstention: Abstention) -> wire.Abstention:
    return wire.Abstention(round=abstention.round, reason=abstention.reason)


def abstention_from_wire(message: wire.Abstention) -> Abstention:
    """Any reason is made to fit: an exception's text may be empty, long or of several lines."""
    return Abstention.of(message.round, message.reason)


def commit_to_wire(commit: Commit, layout: Layout) -> wire.Commit:
    indices = {block: index for index, block in enumerate(layout.blocks)}
    return wire.Commit(
        version=commit.version,
        digest=commit.digest,
        steps=[wire.Step(seed=step.seed, block=indices[step.block], ticks=step.ticks) for step in commit.steps],
        versions=commit.versions if commit.versions > 1 else 0,
    )


def commit_from_wire(message: wire.Commit, layout: Layout) -> Commit:
    """Raises ValueError where a step names a block that the layout does not have."""
    for step in message.steps:
        if step.block >= len(layout.blocks):
            raise ValueError(f"commit: block {step.block} is not one of the layout's {len(layout.blocks)}")
    return Commit(
        version=message.version,
        digest=message.digest,
        steps=tuple(Step(step.seed, layout.blocks[step.block], tuple(step.ticks)) for step in message.steps),
        versions=message.versions or 1,
    )


def encode_commit(commit: Commit, layout: Layout) -> bytes:
    """A commit as it travels and is kept: its wire message, serialised."""
    return commit_to_wire(commit, layout).SerializeToString()


def decode_commit(data: bytes, layout: Layout) -> Commit:
    """Raises ValueError where the bytes are not a commit of this layout, or one of more steps than any fleet makes."""
    require_few_fields(data, wire.Commit.DESCRIPTOR, MOST_FIELDS, "commit")
    try:
        return commit_from_wire(wire.Commit.FromString(data), layout)
    except DecodeError as error:
        raise ValueError(f"commit: {error}") from error


def chunk_in(data: bytes) -> memoryview | None:
    """The chunk in a serialised UploadDeltaRequest, or FetchSnapshotResponse, that holds nothing else, where it lies:
    parsing would copy it twice. None where `data` is any other message, or none."""
    if len(data) < 2 or data[0] != CHUNK_TAG:
        return None
    size, shift, start = 0, 0, 1
    while start < min(len(data), 6):
        size |= (data[start] & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if data[start - 1] < 0x80:
            return memoryview(data)[start:] if len(data) - start == size else None
    return None
