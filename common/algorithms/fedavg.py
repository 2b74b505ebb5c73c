"""FedAvg: clients of the high tier train locally in the warm-up and send their full deltas.

McMahan et al., arXiv 1602.05629, as Legate et al., arXiv 2509.03503, use it before the pivot: the model moves by
`server_rate` times the example-weighted mean of the deltas, w + server_rate sum_i (n_i / N) delta_i, or another
aggregate of them (`aggregate`). Buffers (running mean and variance of BatchNorm) are part of the vector and averaged
with it. A delta far longer than the others', or than the model itself, is scaled down first (`robust_aggregation`): one
client, broken or hostile, cannot lead the model away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import (
    TRAINING_FORWARDS,
    VALUE_BYTES,
    Aggregate,
    Algorithm,
    ClientScalars,
    LocalTraining,
    Start,
    Trained,
    Update,
    Vectors,
    wrong_kind,
)
from zowarmup.common.algorithms.robust_aggregation import (
    clip_factors,
    counted,
    largest_unclipped,
    left_out,
    none_clipped,
    trimmed_mean,
)
from zowarmup.common.algorithms.settings import WarmUp, check_aggregate, require, require_clip
from zowarmup.common.algorithms.step_builder import CommitCost
from zowarmup.common.algorithms.vectors import PIECE, LazyVector, approximate_norm, norm
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Computation, Contribution, Delta, Tier, Work

LEAST_PIECE = 1 << 10
"""Where every client's values are held at once, a piece is shorter the more clients there are, down to this."""
Given = tuple[tuple[int, LazyVector], float]
"""What a client counts with, its delta, and the factor that its delta counts by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgSettings(WarmUp):
    """Local SGD on the clients, and how the server aggregates their deltas.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        epochs: Passes of local SGD over a client's data.
        batch: Examples in a batch.
        rate: The learning rate of local SGD.
        server_rate: What the aggregate of the deltas is multiplied by before it is added to the model.
        aggregate: The weighted mean ("mean"); or coordinate by coordinate, without weights, the mean of all values but
            the share `trim` at either end ("trimmed") or the median ("median").
        trim: With "trimmed": the share that is left out at either end, above 0 and below 0.5.
        clip: A delta longer than this many times the others', or than the model itself, is scaled down to that norm
            (`robust_aggregation`); 0: none is.

    Raises:
        ValueError: A setting is out of its range; the sentence names it.
    """

    algorithm: Literal["fedavg"] = "fedavg"
    epochs: int = 3
    batch: int = 64
    rate: float = 0.1
    server_rate: float = 1.0
    aggregate: Literal["mean", "trimmed", "median"] = "mean"
    trim: float = 0.25
    clip: float = 5.0

    def __post_init__(self) -> None:
        WarmUp.__post_init__(self)
        check_aggregate(self.weighting, self.aggregate, self.trim)
        require(1 <= self.epochs <= 10_000, "epochs", self.epochs, "1 to 10000")
        require(1 <= self.batch <= 65536, "batch", self.batch, "1 to 65536")
        require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        require(0 < self.server_rate <= 1000, "server_rate", self.server_rate, "above 0 and at most 1000")
        require_clip(self.clip)

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.TRAINING if tier is Tier.HIGH else None

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "FedAvg":
        return FedAvg(self, layout)

    def slowed(self, factor: float) -> Self:
        return self if factor == 1 else replace(self, rate=self.rate * factor)


@dataclass(frozen=True, slots=True)
class FedAvg(Algorithm):
    """The warm-up of one run, as the coordinator sees it; local training is `tasks.training`.

    Args:
        spec: The settings.
        layout: Of the model.
    """

    spec: FedAvgSettings
    layout: Layout

    @property
    def training(self) -> LocalTraining:
        return LocalTraining(self.spec.epochs, self.spec.batch, self.spec.rate)

    def uplink_values(self, tier: Tier, examples: int) -> int:
        part = self.submodel(tier)
        return (part.layout if part else self.layout).uploaded

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """As `Algorithm.commit_cost`: of the whole model."""
        return CommitCost(model_bytes(self.layout.size), 0.0)

    def forwards(self, tier: Tier, examples: int) -> int:
        return TRAINING_FORWARDS * self.spec.epochs * examples

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if not isinstance(contribution, Delta):
            raise ValueError(wrong_kind(contribution, work))  # noqa: TRY004  (what a client says is no bug)
        if contribution.round != work.round:
            raise ValueError(f"delta: it is for round {contribution.round}, the work was for round {work.round}")
        if contribution.examples != examples:
            raise ValueError(
                f"delta: trained on {contribution.examples} examples, the client said that it holds {examples}"
            )

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        """The weights plus `server_rate` times the aggregate of the deltas, summed in float64 in the order given.

        Raises:
            ValueError: There are no deltas, or a vector has another shape or type.
        """
        trained = [given for given in contributions if isinstance(given, Trained)]
        if not trained:
            raise ValueError("a round without deltas has no mean")
        allowed = {(part.layout if part else self.layout).uploaded for part in map(self.submodel, Tier)}
        self._check(start.weights, {self.layout.size})
        for given in trained:
            self._check(given.delta, allowed)
        uploaded = self.layout.uploaded
        scales = self._scales_of(start.weights[:uploaded], trained)
        counts = counted([given.examples for given in trained], self.spec)
        vectors = [given.delta for given in trained]
        scaled = list(zip(zip(counts, vectors, strict=True), scales, strict=True))

        def piece(place: slice, out: NDArray[np.float32]) -> Vectors:
            inside = slice(place.start, min(place.stop, uploaded))
            count = max(0, inside.stop - inside.start)
            out[count:] = start.weights[place][count:]
            if not count:
                return ()
            mean, kept = self.step(inside, self.mean_of(inside, scaled), start.vectors)
            mean += start.weights[inside]
            with np.errstate(over="ignore"):  # becomes infinite
                out[:count] = mean
            return kept

        return Aggregate(
            update=Update(piece, PIECE if self.spec.aggregate == "mean" else max(LEAST_PIECE, PIECE // len(trained))),
            optimizer_state=start.optimizer_state,
            clipped_deltas=sum(scale < 1 for scale in scales),
            notes=tuple(
                f"{given.client} sent an outlying delta, which counts {scale:.3g} times"
                for given, scale in zip(trained, scales, strict=True)
                if scale < 1
            ),
        )

    def _scales_of(self, weights: NDArray[np.float32], trained: Sequence[Trained]) -> tuple[float, ...]:
        """The factor for each delta. Exact norms are taken where approximate ones cannot say that all factors are 1."""
        sizes = [given.delta.shape[0] for given in trained]
        if self.takes_whole([given.approximate_norm for given in trained], sizes, approximate_norm(weights)):
            return (1.0,) * len(trained)
        return self.scales([given.norm for given in trained], sizes, norm(weights))

    def scales(self, norms: Sequence[float], sizes: Sequence[int], model: float) -> tuple[float, ...]:
        """The factor for each delta: less than 1 where it is too long beside the others, or beside the model.

        Args:
            norms: The deltas' Euclidean norms (`vectors.norm`).
            sizes: How many values each has.
            model: The norm of the weights that they are added to.
        """
        return clip_factors(norms, self.spec.clip, most=self._most(model) * math.sqrt(self.layout.uploaded))

    def takes_whole(self, norms: Sequence[float | None], sizes: Sequence[int], model: float) -> bool:
        """Whether `scales` are certainly all 1, by what is approximately known of the norms.

        Args:
            norms: The deltas' approximate norms (`ApproximateNorm`), None where one is not known.
            sizes: How many values each has.
            model: The approximate norm of the weights that they are added to.
        """
        return none_clipped(norms, self.spec.clip, self._most(model) * math.sqrt(self.layout.uploaded))

    def _most(self, model: float) -> float:
        """The largest root mean square of a delta beside weights of that norm."""
        return largest_unclipped(model / math.sqrt(self.layout.uploaded))

    def _check(self, vector: LazyVector, sizes: set[int]) -> None:
        if vector.shape not in {(size,) for size in sizes} or vector.dtype != np.float32:
            allowed = " or ".join(f"({size},)" for size in sorted(sizes))
            raise ValueError(f"{self.spec.algorithm}: a vector is {vector.dtype} {vector.shape}, not float32 {allowed}")

    def mean_of(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """The aggregate of the deltas, each times its scale, in a piece of the weights.

        Args:
            piece: A slice of the weights, with start and stop and no step.
            given: For each client, what it counts with and its delta, and the factor that its delta counts by.

        Returns:
            A new array, float64 (piece.stop - piece.start,).
        """
        if self.spec.aggregate == "mean":
            return self.mean(piece, given)
        return self.trimmed([(delta[piece], scale) for (_, delta), scale in given])

    def trimmed(self, given: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.float64]:
        """The trimmed mean, or the median, of at least one client's values, float32 (n,) of each, times its scale."""
        values = np.empty((len(given), given[0][0].size))
        for row, (delta, scale) in zip(values, given, strict=True):
            np.multiply(delta, scale, out=row, dtype=np.float64)
        return trimmed_mean(values, left_out(len(given), self.spec))

    def mean(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """The weighted mean of the deltas, each times its scale, in a piece of the weights.

        Args:
            piece: A slice of the weights, with start and stop and no step.
            given: For each client, what it counts with and its delta, and the factor that its delta counts by.

        Returns:
            A new array, float64 (piece.stop - piece.start,).
        """
        total = sum(examples for (examples, _), _ in given)
        mean = np.zeros(piece.stop - piece.start)
        part = np.empty_like(mean)
        for (examples, delta), scale in given:
            part[:] = delta[piece]
            part *= scale * (examples / total)
            mean += part
        return mean

    def step(
        self, piece: slice, mean: NDArray[np.float64], before: LazyVector | None
    ) -> tuple[NDArray[np.float64], Vectors]:
        """How far a piece of the weights moves, given the mean delta there.

        Args:
            piece: A slice of the weights, with start and stop and no step.
            mean: Float64 (piece.stop - piece.start,), which may be written to.
            before: The optimizer state before the round; None before the first.

        Returns:
            The move, float64 (piece.stop - piece.start,), and what belongs to the piece of the next optimizer state.
        """
        mean *= self.spec.server_rate
        return mean, ()


def model_bytes(size: int) -> int:
    """Bytes of a whole model of so many parameters, and of its delta: what a round of FedAvg costs a client each way."""
    return VALUE_BYTES * size
