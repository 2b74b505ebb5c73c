"""FedSPZO: a language model cut in two, whose upper part is probed along more directions than the lower one.

Ahmed et al., arXiv 2502.10239. A forward pass through the upper part alone costs a share of a whole one, so what crosses the cut is
computed once and the upper part probed on it along several directions. With P1 directions y_i below the cut and P2 z_j above it:

    split = "nested", the paper's: for each i, what crosses at w + eps y_i and at w - eps y_i; on these two, for each j,
        s_ij = (L(w + eps y_i + eps z_ij) - L(w - eps y_i - eps z_ij)) / (2 eps)
        lower gradient  1/P1 sum_i (mean_j s_ij) y_i        upper  1/(P1 P2) sum_ij (s_ij - mean_j s_ij) P2/(P2 - 1) z_ij
    split = "apart": P1 probes below by whole passes, s_i, and P2 above on what crosses at w, t_j
        lower gradient  1/P1 sum_i s_i y_i                  upper  1/P2 sum_j t_j z_j

A scalar s_ij has the slopes of both parts, and each is noise to the other. Without the mean of its nest it has lost the lower part's, at
no cost. The paper does not do so; of two directions nothing is gained by it, and they are taken as they are. Apart, neither part
sees the other's slope. At equal cost that has the smaller variance at every setting that was tried (docs/method.md), so it is the
default.

Where nothing below the cut moves (P1 = 0, or by `train`) there is nothing to choose: a device computes what crosses once for all rounds, and
a round has P2 probes of the upper part. A normalised step is divided by the root mean square of derivatives along directions of both parts
together, so that `rate` is what it is for `zowarmup`. All else is as there: the exact head, whitening, slices, steps. A nest has one
slice. There are no local steps, and the high tier probes as the low one does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from zowarmup.common.algorithms.directional_derivatives import Measured, Probe, measure, project
from zowarmup.common.algorithms.local_scalars import as_sent, decaying
from zowarmup.common.algorithms.nests import Nest, measure_nests
from zowarmup.common.algorithms.probe_plan import ProbePlan, weighted_mean_square
from zowarmup.common.algorithms.probing import ProbingSettings
from zowarmup.common.algorithms.protocol import ClientScalars, CutForward, Forward
from zowarmup.common.algorithms.settings import WarmUp, require
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, check_head, check_train
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import AUTO, HEAD, LOWER, NORM, UPPER, Block, Cut, Layout
from zowarmup.common.exact.steps import Direction, Weights
from zowarmup.common.messages.values import Scalars, Tier, Work

_CENTRED = 3
"""From so many directions of a nest on their scalars are taken without their mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FedSPZOSettings(ProbingSettings):
    """A language model in two parts, each probed along directions of its own.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        cut: The layer, from 0, that is the first of the upper part.
        probes: P1 and P2, the number of directions in the lower part, 0 (nothing below the cut moves) to 4096, and in the upper, 1 to 4096.
            With split = "nested" P2 for each of the P1, at most 4096 in all.
        split: Whether the parts are probed one after the other ("apart"), or the upper within each probe of the lower ("nested").
        train: What moves, as for `zowarmup`, but neither "auto" nor "head".
        head_projections: As for `zowarmup`.
        whitening: As for `zowarmup`.
        weight_decay: As for `zowarmup`.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
    """

    algorithm: Literal["fedspzo"] = "fedspzo"
    cut: int
    probes: tuple[int, ...] = (16, 16)
    split: Literal["apart", "nested"] = "apart"
    train: str = NORM
    head_projections: int = 64
    whitening: int = 8
    weight_decay: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        require(0 <= self.cut <= 4096, "cut", self.cut, "0 to 4096, the first layer of the upper part")
        fits = len(self.probes) == 2 and 0 <= self.probes[0] <= 4096 and 1 <= self.probes[1] <= 4096
        require(fits, "probes", list(self.probes), "[P1, P2], 0 to 4096 below the cut and 1 to 4096 above it")
        both = f'at most 4096 in all with split = "{self.split}"'
        require(self.most_probes <= 4096, "probes", list(self.probes), both)
        require(self.train not in (AUTO, HEAD), "train", self.train, "what has probes, not the head alone")
        check_train(self.train)
        require(self.head_projections > 0, "head_projections", self.head_projections, "at least 1")
        check_head(self.head_projections, self.whitening, self.weight_decay)
        ProbingSettings.__post_init__(self)

    @property
    def most_probes(self) -> int:
        lower, upper = self.probes
        return max(lower, 1) * upper if self.split == "nested" else lower + upper

    @property
    def cut_at(self) -> int | None:
        return self.cut

    @property
    def only_above(self) -> bool:
        return self.probes[0] == 0

    @property
    def moved(self) -> str:
        return self.train

    @property
    def whitens(self) -> int:
        return self.whitening if self.head_projections else 0

    def largest_batch(self, examples: int) -> int:
        if self.slices == "whole":
            return min(self.micro_batch, examples)
        fewest = min(count for count in self.probes if count)
        return min(self.micro_batch, -(-examples // min(fewest, examples)))

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "FedSPZO":
        return FedSPZO(self, layout)


@dataclass(frozen=True, slots=True)
class CutPlan(ProbePlan):
    """A probe plan with directions of their own below a cut and above it.

    Args:
        spec: The settings.
        layout: Of the model, which is cut.
    """

    spec: FedSPZOSettings

    @property
    def cut(self) -> Cut:
        """Where the model is cut."""
        assert self.layout.cut is not None
        return self.layout.cut

    @property
    def lower(self) -> Block | None:
        """What moves below the cut; None where nothing does."""
        return next((block for block in self.layout.blocks if block.name == LOWER), None)

    @property
    def upper(self) -> Block:
        """What moves above it, up to the head."""
        return self.layout.block(UPPER)

    @property
    def probed_blocks(self) -> list[Block]:
        return [self.upper] if self.lower is None else [self.lower, self.upper]

    @property
    def nested(self) -> bool:
        """Whether the upper part is probed within probes of the lower."""
        return self.lower is not None and self.spec.split == "nested"

    def directions_of(self, examples: int) -> tuple[int, int]:
        """How many directions a client with so many examples has below the cut, and above it for each nest or in all: every slice has at
        least one example."""
        lower, upper = 0 if self.lower is None else self.spec.probes[0], self.spec.probes[1]
        if self.spec.slices == "whole":
            return lower, upper
        return min(lower, examples), upper if self.nested else min(upper, examples)

    def probes(self, examples: int) -> int:
        lower, upper = self.directions_of(examples)
        return lower * upper if self.nested else lower + upper

    def whole(self, seed: int, examples: int) -> list[Probe]:
        """What to probe below the cut by whole passes.

        Args:
            seed: Of the client's work.
            examples: How many it holds, at least 1.
        """
        count, _ = self.directions_of(examples)
        if self.lower is None or self.nested or not count:
            return []
        slices = self.cut_up(seed, 0, examples, count)
        return [Probe(Direction(seed, index, self.lower), chosen) for index, chosen in enumerate(slices)]

    def nests(self, seed: int, examples: int) -> list[Nest]:
        """What to probe above the cut, on what crosses it.

        Args:
            seed: Of the client's work.
            examples: How many it holds, at least 1.
        """
        lower, upper = self.directions_of(examples)
        above = [Direction(seed, index, self.upper) for index in range(self.probes(examples) if self.nested else upper)]
        if self.nested and self.lower is not None:
            slices = self.cut_up(seed, 0, examples, lower)
            return [
                Nest(Direction(seed, index, self.lower), tuple(above[index * upper : (index + 1) * upper]), chosen)
                for index, chosen in enumerate(slices)
            ]
        slices = self.cut_up(seed, 1, examples, upper)
        if self.spec.slices == "whole":
            return [Nest(None, tuple(above), slices[0])]
        return [Nest(None, (direction,), chosen) for direction, chosen in zip(above, slices, strict=True)]

    def explored(self, part: ClientScalars) -> dict[Block, int]:
        return {block: len(lengths) for block, lengths in self._lengths(part)}

    def estimate(self, part: ClientScalars, factors: Mapping[Block, float]) -> Iterator[Move]:
        for block, lengths in self._lengths(part):
            for index, length in enumerate(lengths):
                yield from self.along(Move(part.seed, block, index, factors[block] * length))

    def _lengths(self, part: ClientScalars) -> list[tuple[Block, list[float]]]:
        """How far a part's estimate goes along each direction, by block."""
        below, above = self.directions_of(part.examples)
        found, lower = part.scalars.probes, self.lower
        if not self.nested or lower is None:
            weights = [self.parts(part.examples, count) if count else [] for count in (below, above)]
            values = found[:below], found[below:]
            lengths = [
                [w * value for w, value in zip(*pair, strict=True)] for pair in zip(weights, values, strict=True)
            ]
            return [(self.upper, lengths[1])] if lower is None else [(lower, lengths[0]), (self.upper, lengths[1])]
        means, centred = list[float](), list[float]()
        for index, weight in enumerate(self.parts(part.examples, below)):
            nest = found[index * above : (index + 1) * above]
            mean = sum(nest) / above
            means.append(weight * mean)
            without, times = (mean, above - 1) if above >= _CENTRED else (0.0, above)
            centred += [weight * (value - without) / times for value in nest]
        return [(lower, means), (self.upper, centred)]

    def mean_square(self, part: ClientScalars) -> float:
        below, above = self.directions_of(part.examples)
        found = part.scalars.probes
        if self.nested:
            weights = [weight for weight in self.parts(part.examples, below) for _ in range(above)]
            return weighted_mean_square(weights, found)
        both = zip((below, above), (found[:below], found[below:]), strict=True)
        return sum(weighted_mean_square(self.parts(part.examples, count), values) for count, values in both if count)

    def typical(self, tier: Tier, examples: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """As of any plan; the two parts have the same share of a mean square."""
        probes, projections = self.counts(tier, examples)
        if self.lower is None:
            return (1.0,) * probes, (1.0,) * projections
        pattern = (2**0.5, 0.0) if self.nested else (0.5**0.5,) * 2
        return tuple(pattern[index % 2] for index in range(probes)), (1.0,) * projections


@dataclass(frozen=True, slots=True)
class FedSPZO(ZOWarmUp):
    """The zeroth-order rounds of one run.

    Args:
        spec: The settings.
        layout: Of the model, which is cut.
    """

    spec: FedSPZOSettings

    @property
    def plan(self) -> CutPlan:
        return CutPlan(self.spec, self.layout)

    def forwards(self, tier: Tier, examples: int) -> int:
        """As `Algorithm.forwards`; a pass through the layers of one part counts as their share of a whole one."""
        plan, whole = self.plan, self.spec.slices == "whole"
        lower, upper = plan.directions_of(examples)
        above = plan.cut.share
        below = 0.0 if plan.lower is None else 1 - above  # computed once for all rounds, where it does not move
        if plan.nested:
            passes = (lower if whole else 1) * 2 * (below + upper * above)
        else:
            passes = (2 * lower if whole else 2 * (lower > 0)) + below + (2 * upper if whole else 2) * above
        return round(passes * examples)

    def walks(self, tier: Tier, examples: int) -> int:
        plan = self.plan
        lower, upper = plan.directions_of(examples)
        # Each nest enters and leaves a direction below and one above; apart, the whole probes and the nests each do so once.
        below, above = (3 * lower, lower * (2 * upper + 1)) if plan.nested else (2 * lower + 1, 2 * upper + 1)
        sizes = 0 if plan.lower is None else plan.lower.size, plan.upper.size
        return -(-(below * sizes[0] + above * sizes[1]) // sum(sizes))

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        """As `Algorithm.contribute`.

        Raises:
            HeadroomExceeded: `eps` is beyond the grid.
            ValueError: A scalar is not finite, or beyond STEEP.
        """
        if first := self._whitening(work.done):
            return first.contribute(forward, examples, work)
        assert isinstance(forward, CutForward)  # as the layout is cut
        plan = self.plan
        try:
            below, above = self._measured(weights, grid, forward, examples, work)
        except HeadroomExceeded as error:
            raise HeadroomExceeded(f"zeroth_order.eps ({self.spec.eps:g}) is too long: {error}") from error
        projected: list[float] = []
        if above.head_gradient is not None and plan.head is not None:
            gradient = decaying(plan, above.head_gradient, weights)
            projected = project(gradient, work.seed, plan.head, plan.projections)
        return as_sent(self.spec, work, [*below, *above.derivatives], projected)

    def _measured(
        self, weights: Weights, grid: Grid, forward: CutForward, examples: int, work: Work
    ) -> tuple[list[float], Measured]:
        """The derivatives of whole probes below the cut, and what the nests find."""
        plan, eps = self.plan, self.spec.eps * self.spec.tau
        probes = plan.whole(work.seed, examples)
        below = measure(weights, grid, forward, probes, eps, False, plan.gaussian).derivatives if probes else []
        nests = plan.nests(work.seed, examples)
        return below, measure_nests(weights, grid, forward, nests, eps, plan.projections > 0, plan.gaussian)
