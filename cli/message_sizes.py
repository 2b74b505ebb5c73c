"""The bytes of a run's messages, for `zowarmup plan`.

What contributions and commits have, the algorithm says. The other messages are constants. On the wire each message, call and connection has more; those sizes were measured between
grpc-core's own client and server (1.85), and change little from version to version.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.algorithms.step_builder import CommitCost
from zowarmup.common.algorithms.whitening import value_count
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.small_floats import Precision, packed_bytes
from zowarmup.common.messages.values import Computation, Phase, Tier
from zowarmup.common.settings.run import ClientSpec, RunFile

# Payload, for a name of 8 letters.
OFFER, ENROL, ENROLLED, TOKEN, HELLO, WELCOME = 124, 115, 76, 66, 57, 67
WORK, ACCEPTED, FETCH, REPORT, FINISHED, COMMIT = 23, 5, 25, 28, 23, 24
SCALARS, DELTA_READY, DELTA_HEADER, UPLOAD_ASKED, STORED, SNAPSHOT_HEADER = 11, 30, 26, 20, 4, 35
# Overhead, (up, down): of a connection with its first call, of TLS on it with a certificate of `zowarmup certs`, of a further
# call; of saying who calls; of each message, and of reading a small one of a client's; and of a TLS record.
CONNECTION, TLS, CALL = (375, 228), (1612, 2472), (135, 37)
IDENTITY, FRAMED, WINDOWS, SMALL_BYTES, RECORD, RECORD_BYTES = 113, 14, 26, 1 << 15, 22, 16384
OVERHEAD = "overhead"
Message = tuple[str, str, int]
"""Its direction, "up" or "down", kind and payload."""
Exchange = Mapping[tuple[str, str], float]
"""Bytes of messages that belong together, by direction and kind. What the wire adds to them is a kind, OVERHEAD."""


def together(*exchanges: Exchange, share: float = 1.0) -> Exchange:
    """A share of their sum."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for exchange in exchanges:
        for key, count in exchange.items():
            found[key] += share * count
    return found


@dataclass(frozen=True)
class MessageSizes:
    """Of a run whose clients hold `examples` each. `grid`: of its first weights; `artifacts`: the bytes of each file that is
    fetched once."""

    run: RunFile
    spec: ClientSpec
    layout: Layout
    grid: Grid
    artifacts: Mapping[str, int]
    examples: int
    invited: bool = False

    @property
    def weights_bytes(self) -> int:
        return model_bytes(self.layout.size)

    @property
    def tls(self) -> bool:
        return bool(self.run.server.tls_certificate)

    def rules(self, phase: Phase) -> Rounds:
        return self.run.warmup if phase is Phase.WARM_UP else self.run.zeroth_order

    def algorithm(self, phase: Phase) -> Algorithm:
        return algorithm_of(self.spec, phase, self.layout, self.spec.pool_seed)

    def asking(self) -> Exchange:
        """What is trained here? Asked before a client has a tier."""
        offer = OFFER + len(self.spec.to_json()) + len(self.layout.to_json())
        found = self._said(("up", "control", 2), ("down", "control", offer), connections=1, named=0)
        # Measured: the frame of a connection's first message is in CONNECTION, and this one is closed before it says of windows.
        return together(found, {("up", OVERHEAD): -(FRAMED + WINDOWS)})

    def joining(self) -> Exchange:
        """Enrolling, and opening the stream."""
        enrol: tuple[Message, ...] = ("up", "control", ENROL + TOKEN * self.invited), ("down", "control", ENROLLED)
        return self._said(*enrol, ("up", "control", HELLO), ("down", "control", WELCOME), connections=2, named=1)

    def catching_up(self) -> Exchange:
        """A whole model, for one whom steps do not lead to it."""
        return together(self._said(("down", "control", FETCH)), self._snapshot())

    def fetching(self, artifact: str) -> Exchange:
        return self._said(("down", artifact, self.artifacts[artifact]), connections=1, named=1)

    def contributing(self, phase: Phase, tier: Tier) -> Exchange:
        """A round's work and its answer: scalars, or a delta of the model, which in the warm-up is fetched for it."""
        values = self.algorithm(phase).uplink_bytes(tier, self.examples)
        trains = self.rules(phase).computation(tier) is Computation.TRAINING
        answer = DELTA_READY if trains else SCALARS + values
        found = self._said(("down", "control", WORK), ("up", "contribution", answer), ("down", "control", ACCEPTED))
        if trains:
            delta = ("up", "delta", DELTA_HEADER), ("up", "delta", values), ("down", "control", STORED)
            asked = ("up", "control", UPLOAD_ASKED), ("down", "control", 0)
            found = together(found, self._said(*asked, *delta, connections=1, named=1, calls=1))
        return together(found, self._snapshot()) if phase is Phase.WARM_UP else found

    def describing_features(self) -> Exchange:
        """What a client says in the first zeroth-order round of a run whose head reads whitened features, and its answer."""
        assert self.layout.whitening is not None
        rows, features = self.layout.whitening.shape
        said = SCALARS + packed_bytes(value_count(rows - 2, features), Precision.FLOAT32)
        return self._said(("down", "control", WORK), ("up", "contribution", said), ("down", "control", ACCEPTED))

    def committing(self, participants: Sequence[Tier]) -> Exchange:
        """What everyone hears of a zeroth-order round, on average. Where anyone trains, each version is a whole model."""
        if any(map(self.run.zeroth_order.trains, participants)):
            return self.catching_up()
        return self._said(("down", "commit", COMMIT + round(self.commit_cost(participants).bytes)))

    def commit_cost(self, participants: Sequence[Tier]) -> CommitCost:
        """Of a zeroth-order round to which all of these contribute."""
        return self.algorithm(Phase.ZEROTH_ORDER).commit_cost(participants, self.examples, self.grid)

    def reporting(self) -> Exchange:
        """What a client says once in each phase that it contributes to."""
        return self._said(("up", "control", REPORT))

    def leaving(self) -> Exchange:
        return self._said(("down", "control", FINISHED), ("up", "control", REPORT))

    def _snapshot(self) -> Exchange:
        header: Message = ("down", "snapshot", SNAPSHOT_HEADER)
        return self._said(header, ("down", "snapshot", self.weights_bytes), connections=1, named=1)

    def _said(self, *messages: Message, connections: int = 0, named: int = 0, calls: int = 0) -> Exchange:
        """Messages on so many connections of their own (0: on the stream), of which `named` say who calls, with so many
        further calls."""
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for way, opening, tls, call in zip(("up", "down"), CONNECTION, TLS, CALL, strict=True):
            found[way, OVERHEAD] = (opening + tls * self.tls) * connections + call * calls
        found["up", OVERHEAD] += IDENTITY * named
        for direction, kind, size in messages:
            found[direction, kind] += size
            found[direction, OVERHEAD] += FRAMED + RECORD * self.tls * -(-(size + FRAMED) // RECORD_BYTES)
            if direction == "up" and size < SMALL_BYTES:
                found["up", OVERHEAD] += WINDOWS
                found["down", OVERHEAD] += WINDOWS
        return found
