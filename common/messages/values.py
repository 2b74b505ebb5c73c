"""The messages between clients and the coordinator, as values.

Every type here is frozen and checks itself on construction, so an invalid one cannot exist: what arrives from the
network becomes one of these or an error that names the field. The wire's form of each is in `codec`.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from zowarmup.common.messages.small_floats import Precision, pack
from zowarmup.common.text import blanked

SEED_LIMIT = 1 << 64
LONGEST_REASON = 200
TRACE_PARENT_BYTES = 25
LARGEST_DELTA = 2.0**20
"""Every value of a delta is below this in magnitude. No weight moves so far in a round of training; sums of such moves still fit a grid, so that no delta can make a model
that the coordinator cannot hold, and with it a round that fails anew after each restart."""


class Tier(StrEnum):
    """What a device can do: back-propagate and upload a full delta (high), or run forward passes only (low)."""

    HIGH = "high"
    LOW = "low"


class Computation(StrEnum):
    """What a client computes in a round: local training, of which a delta goes up; one gradient by back-propagation, or
    forward passes alone, of which scalars go up."""

    TRAINING = "training"
    GRADIENT = "gradient"
    FORWARD = "forward"


class Phase(StrEnum):
    """Where a run is. The pivot lies between the first two."""

    WARM_UP = "warm-up"
    ZEROTH_ORDER = "zeroth-order"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Work:
    """One client's part of one round.

    `version` is the one its replica must be at; `seed` (64 bits) is the key of all randomness in it: directions,
    slices, shuffles. `deadline_s`: seconds from now until the round closes without it. `done`: zeroth-order rounds
    committed so far, where the algorithm has a client take steps of its own, which are annealed as the run's are, or where
    the head reads whitened features, of which the first round has sketches; else 0.
    `rate_factor`: what the learning rates of the client's own training or steps are multiplied by (`slowed`).
    `trace_parent`: what the client's spans are children of (`system.tracing`), TRACE_PARENT_BYTES; empty where nothing is traced.
    """

    round: int
    phase: Phase
    version: int
    seed: int
    deadline_s: float
    done: int = 0
    rate_factor: float = 1.0
    trace_parent: bytes = b""

    def __post_init__(self) -> None:
        if len(self.trace_parent) not in (0, TRACE_PARENT_BYTES):
            raise ValueError(
                f"work: trace_parent has {len(self.trace_parent)} bytes: must have {TRACE_PARENT_BYTES} or none"
            )
        if not 0 < self.rate_factor <= 1:
            raise ValueError(f"work: rate_factor {self.rate_factor} must be above 0 and at most 1")
        if self.round < 1 or self.version < 0:
            raise ValueError(f"work: round {self.round} must be at least 1 and version {self.version} at least 0")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"work: seed {self.seed} does not fit 64 bits")
        if self.done < 0:
            raise ValueError(f"work: done {self.done} must be at least 0")
        if self.phase is Phase.FINISHED:
            raise ValueError("work: there is none in a finished run")


@dataclass(frozen=True, slots=True)
class Scalars:
    """A zeroth-order contribution. `probes[s]` is dL_s / (2 eps) along direction s of the client's seed in the probed
    block; `projections[k]` is z_k . g along direction k in the head block. Finite float32 values, which a `precision`
    other than FLOAT32 holds exactly."""

    round: int
    probes: tuple[float, ...]
    projections: tuple[float, ...]
    precision: Precision = field(default=Precision.FLOAT32, kw_only=True)

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.probes, *self.projections)):
            raise ValueError("scalars: a value is not finite")
        if self.precision is not Precision.FLOAT32:
            for values in (self.probes, self.projections):
                pack(values, self.precision)


@dataclass(frozen=True, slots=True)
class Delta:
    """A warm-up contribution: local minus base weights, as one flat float32 vector whose digest is `digest` (hex).
    `loss` is the mean training loss of the last local epoch, nats per example."""

    round: int
    digest: str
    examples: int
    loss: float

    def __post_init__(self) -> None:
        if len(self.digest) != 32 or set(self.digest) - set("0123456789abcdef"):
            raise ValueError("delta: digest must be 32 lower-case hex digits")
        if self.examples < 1:
            raise ValueError("delta: examples must be at least 1")
        if not math.isfinite(self.loss):
            raise ValueError("delta: loss is not finite")


Contribution = Scalars | Delta

PROGRAM, BASE, TOKENIZER = "program", "base", "tokenizer"
"""The artifacts of a run, files that never change: the model's forward pass as an ONNX graph; what the model is made of that
nothing trains, as safetensors; a tokenizer.json."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the run that devices need beside the program.

    Args:
        name: BASE or TOKENIZER.
        sha256: Of its bytes, 64 hex digits.
        size_bytes: At least 1.

    Raises:
        ValueError: A field is something else.
    """

    name: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if self.name not in (BASE, TOKENIZER):
            raise ValueError(f"artifact: name = {ascii(self.name)[:60]}: must be {BASE} or {TOKENIZER}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"artifact {self.name}: sha256 must be 64 lower-case hex digits")
        if self.size_bytes < 1:
            raise ValueError(f"artifact {self.name}: size_bytes = {self.size_bytes}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Abstention:
    """In the place of a contribution: there is none, for a `reason` of 1 to LONGEST_REASON printable characters."""

    round: int
    reason: str

    def __post_init__(self) -> None:
        if self.round < 1:
            raise ValueError(f"abstention: round {self.round} must be at least 1")
        if not 1 <= len(self.reason) <= LONGEST_REASON or not self.reason.isprintable():
            raise ValueError(f"abstention: reason must be 1 to {LONGEST_REASON} printable characters")

    @classmethod
    def of(cls, round: int, why: object) -> "Abstention":
        """With whatever `why` prints as, made to fit."""
        text = blanked(str(why)).strip()
        return cls(round, text[:LONGEST_REASON].strip() or "it does not say why")
