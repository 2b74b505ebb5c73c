"""FedSPZO: exact numbers against a reference in float64, variances in closed form, what a client sends and costs.

The loss of `Plane` is linear, L = g . w, so a derivative along z is g . z exactly, and the expectation of an estimate's square over
signs has a closed form."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from zowarmup.common.algorithms.fedspzo import CutPlan, FedSPZO, FedSPZOSettings
from zowarmup.common.algorithms.nests import Nest, measure_nests
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient, Start
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Cut, Head, Layout, Tensor
from zowarmup.common.exact.steps import Direction
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work
from zowarmup.server.setup.run_file import RunFileError, run_file_of

LOWER, UPPER, HEAD = 6, 10, 8
STOP = LOWER + UPPER + HEAD
LAYOUT = Layout(
    (Tensor("below", (LOWER,), 0), Tensor("above", (UPPER,), LOWER), Tensor("head", (2, 4), LOWER + UPPER)),
    STOP,
    STOP,
    (
        Block("all", 0, STOP),
        Block("trunk", 0, LOWER + UPPER),
        Block("head", LOWER + UPPER, STOP),
        Block("lower", 0, LOWER),
        Block("upper", LOWER, LOWER + UPPER),
    ),
    Head("head", None, 4, 2),
    cut=Cut(3, 4, 5, 5),
)
ABOVE = Layout(
    LAYOUT.tensors, STOP, STOP, (*LAYOUT.blocks[:3], Block("upper", 0, LOWER + UPPER)), LAYOUT.head, cut=LAYOUT.cut
)
GRID, EXAMPLES = Grid(20), 7
WEIGHTS = GRID.quantise(np.random.default_rng(0).normal(size=STOP).astype(np.float32))
SLOPES = np.random.default_rng(1).normal(size=(EXAMPLES, STOP))
EPS = GRID.whole_ticks(1e-3) * GRID.tick


def made(**others: Any) -> FedSPZOSettings:
    return FedSPZOSettings(
        **{"rounds": 10, "cut": 3, "probes": (2, 3), "whitening": 0, "head_projections": 5, **others}
    )


def work(seed: int = 9) -> Work:
    return Work(3, Phase.ZEROTH_ORDER, 2, seed, 60.0)


def signs(seed: int, index: int, block: Block) -> NDArray[np.float64]:
    """Those of a direction, as float64."""
    bits = np.unpackbits(lanes(seed, index // 8, block.start, block.size)[None], axis=0, bitorder="little")
    found: NDArray[np.float64] = 2.0 * bits[index % 8] - 1
    return found


@dataclass
class Plane:
    """A loss g_n . w + c (g_n . w)^2 for each example."""

    weights: NDArray[np.float32]
    curvature: float = 0.0
    whole: int = 0
    below: int = 0
    above: int = 0
    largest: int = 0
    pieces_of: int = 100
    held: list[int] = field(default_factory=list)

    def _loss(self, examples: NDArray[np.int64], sums: NDArray[np.float64], head: bool) -> LossAndGradient:
        losses = sums + self.curvature * sums**2
        gradient = SLOPES[examples, LOWER + UPPER :] * (1 + 2 * self.curvature * sums)[:, None]
        return LossAndGradient(float(losses.sum()), gradient.sum(0) if head else None)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        self.whole += len(examples)
        return self._loss(examples, SLOPES[examples] @ self.weights.astype(np.float64), head_gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        raise AssertionError

    def pieces(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        yield from np.split(examples, range(self.pieces_of, len(examples), self.pieces_of))

    def lower(self, examples: NDArray[np.int64]) -> Any:
        self.below += len(examples)
        self.largest = max(self.largest, len(examples))
        return examples, SLOPES[examples, :LOWER] @ self.weights[:LOWER].astype(np.float64)

    def upper(self, held: Any, head_gradient: bool) -> LossAndGradient:
        examples, below = held
        self.above += len(examples)
        sums = below + SLOPES[examples, LOWER:] @ self.weights[LOWER:].astype(np.float64)
        return self._loss(examples, sums, head_gradient)


def contributed(spec: FedSPZOSettings, plane: Plane | None = None, layout: Layout = LAYOUT) -> Scalars:
    plane = plane or Plane(WEIGHTS.copy())
    found = FedSPZO(spec, layout).contribute(plane.weights, GRID, plane, EXAMPLES, work())
    assert plane.weights.tobytes() == WEIGHTS.tobytes()
    return found


def along(examples: NDArray[np.int64], *directions: tuple[int, Block]) -> float:
    """The mean slope of some examples along the sum of directions."""
    slope = SLOPES[examples].mean(0)
    return sum(float(slope[block.start : block.stop] @ signs(9, index, block)) for index, block in directions)


@pytest.mark.parametrize("curvature", [0.0, 0.3])
@pytest.mark.parametrize("slices", ["own", "whole"])
def test_apart_each_scalar_is_a_derivative_in_one_part(slices: str, curvature: float) -> None:
    spec = made(slices=slices)
    found = contributed(spec, Plane(WEIGHTS.copy(), curvature))
    plan = CutPlan(spec, LAYOUT)
    lower, upper = LAYOUT.block("lower"), LAYOUT.block("upper")
    tried = [(probe.examples, index, lower) for index, probe in enumerate(plan.whole(9, EXAMPLES))]
    nests = plan.nests(9, EXAMPLES)
    assert all(nest.lower is None for nest in nests)
    tried += [(nest.examples, direction.index, upper) for nest in nests for direction in nest.upper]
    assert len(found.probes) == len(tried) == 5 and len(found.projections) == 5
    for value, (examples, index, block) in zip(found.probes, tried, strict=True):
        if slices == "whole":
            assert examples.tolist() == list(range(EXAMPLES))
        ends = []
        for side in (EPS, -EPS):
            moved = WEIGHTS.astype(np.float64)
            moved[block.start : block.stop] += side * signs(9, index, block)
            sums = SLOPES[examples] @ moved
            ends.append((sums + curvature * sums**2).mean())
        assert value == pytest.approx((ends[0] - ends[1]) / (2 * EPS), rel=1e-5)


@pytest.mark.parametrize("pieces_of", [2, 100])
@pytest.mark.parametrize("slices", ["own", "whole"])
def test_in_nests_each_scalar_is_a_derivative_along_the_sum_of_two_directions(slices: str, pieces_of: int) -> None:
    spec = made(slices=slices, split="nested")
    plane = Plane(WEIGHTS.copy(), pieces_of=pieces_of)
    found = contributed(spec, plane)
    lower, upper = LAYOUT.block("lower"), LAYOUT.block("upper")
    nests = CutPlan(spec, LAYOUT).nests(9, EXAMPLES)
    wanted = [
        along(nest.examples, (number, lower), (direction.index, upper))
        for number, nest in enumerate(nests)
        for direction in nest.upper
    ]
    assert [d.index for nest in nests for d in nest.upper] == list(range(6))
    assert found.probes == pytest.approx(wanted, rel=1e-5)
    assert plane.whole == 0 and plane.largest <= pieces_of, "no more is held than a piece"


def test_directions_are_probed_as_far_in_both_parts_where_their_grids_differ() -> None:
    """Else a derivative would be of neither."""
    grid = Grid(20, ((LOWER, 12),))
    lower, upper = LAYOUT.block("lower"), LAYOUT.block("upper")
    weights = np.zeros(STOP, np.float32)
    every = np.arange(EXAMPLES)
    nest = Nest(Direction(9, 0, lower), (Direction(9, 0, upper),), every)
    (found,) = measure_nests(weights, grid, Plane(weights), [nest], 1e-3, False).derivatives
    assert found == pytest.approx(along(every, (0, lower), (0, upper)), rel=1e-6)
    assert not weights.any()


def test_the_heads_gradient_comes_with_the_passes_above_the_cut() -> None:
    wanted = SLOPES[:, LOWER + UPPER :].mean(0)
    for spec in (made(), made(split="nested"), made(slices="whole")):
        found = contributed(spec)
        exact = [float(wanted @ signs(9, index, LAYOUT.block("head"))) for index in range(5)]
        assert found.projections == pytest.approx(exact, rel=1e-5)


def estimates(spec: FedSPZOSettings, repeats: int) -> NDArray[np.float64]:
    """The estimates of the gradient of what is probed, (repeats, lower and upper): as aggregated, from exact derivatives."""
    plan, every = CutPlan(spec, LAYOUT), np.arange(EXAMPLES)
    blocks = [LAYOUT.block("lower"), LAYOUT.block("upper")]
    found = np.zeros((repeats, LOWER + UPPER))
    slope = SLOPES.mean(0)
    for seed in range(repeats):
        plane_scalars = []
        for probe in plan.whole(seed, EXAMPLES):
            block = probe.direction.block
            plane_scalars.append(float(slope[block.start : block.stop] @ signs(seed, probe.direction.index, block)))
        for nest in plan.nests(seed, EXAMPLES):
            below = 0.0
            if nest.lower is not None:
                below = float(slope[:LOWER] @ signs(seed, nest.lower.index, blocks[0]))
            for direction in nest.upper:
                above = slope[LOWER : LOWER + UPPER] @ signs(seed, direction.index, blocks[1])
                plane_scalars.append(below + float(above))
        part = ClientScalars(seed, len(every), Scalars(1, tuple(plane_scalars), ()))
        for move in plan.estimate(part, dict.fromkeys(blocks, 1.0)):
            place = slice(move.block.start, move.block.stop)
            found[seed, place] += move.length * signs(seed, move.direction, move.block)
    return found


@pytest.mark.parametrize(("p1", "p2"), [(2, 2), (2, 4), (3, 5)])
def test_the_estimates_are_unbiased_and_vary_as_theory_says(p1: int, p2: int) -> None:
    """Of d signs and a scalar of mean square m that holds the slope of one part, g . z, the estimate's squared error over n directions is
    ((d - 1) |g|^2 + d m') / n, with m' what else the scalar holds: the other part's slope."""
    slope, repeats = SLOPES.mean(0), 3000
    below, above = float(slope[:LOWER] @ slope[:LOWER]), float(slope[LOWER:-HEAD] @ slope[LOWER:-HEAD])
    closed = {
        "apart": ((LOWER - 1) * below / p1, (UPPER - 1) * above / p2),
        "nested": (
            ((LOWER - 1) * below + LOWER * above / p2) / p1,
            # Centred, the other part's slope is gone, and the deviations of n values vary as n / (n - 1).
            ((UPPER - 1) * above + UPPER * (above / (p2 - 1) if p2 > 2 else below)) / (p1 * p2),
        ),
    }
    for split, wanted in closed.items():
        found = estimates(made(probes=(p1, p2), split=split, slices="whole"), repeats)
        error = found - slope[: LOWER + UPPER]
        deviation = found.std(0) / np.sqrt(repeats)
        assert (np.abs(error.mean(0)) < 5 * deviation).all(), "unbiased"
        parts = (error[:, :LOWER] ** 2).sum(1).mean(), (error[:, LOWER:] ** 2).sum(1).mean()
        assert parts == pytest.approx(wanted, rel=0.12), split


def test_a_normalised_step_is_divided_by_the_slope_along_both_parts_together() -> None:
    """So the rate is what it is for probes of everything."""
    apart, nested = made(slices="whole"), made(slices="whole", split="nested")
    part = ClientScalars(1, EXAMPLES, Scalars(1, (3.0, 3.0, 4.0, 4.0, 4.0), ()))
    assert CutPlan(apart, LAYOUT).mean_square(part) == pytest.approx(25)
    part = ClientScalars(1, EXAMPLES, Scalars(1, (5.0,) * 6, ()))
    assert CutPlan(nested, LAYOUT).mean_square(part) == pytest.approx(25)


@given(
    examples=st.integers(1, 40),
    p1=st.integers(0, 6),
    p2=st.integers(1, 6),
    split=st.sampled_from(["apart", "nested"]),
    slices=st.sampled_from(["own", "whole"]),
    layout=st.sampled_from([LAYOUT, ABOVE]),
)
@settings(max_examples=60, deadline=None)
def test_every_example_is_probed_below_and_above_and_every_scalar_has_its_place(
    examples: int, p1: int, p2: int, split: str, slices: str, layout: Layout
) -> None:
    p1 = p1 if layout is ABOVE else max(1, p1)
    spec = made(probes=(p1, p2), split=split, slices=slices)
    plan, algorithm = CutPlan(spec, layout), FedSPZO(spec, layout)
    probes, nests = plan.whole(3, examples), plan.nests(3, examples)
    count = len(probes) + sum(len(nest.upper) for nest in nests)
    assert count == plan.probes(examples) == algorithm.counts(Tier.LOW, examples)[0]
    for covered in ([probe.examples for probe in probes], [nest.examples for nest in nests]):
        if covered:
            seen = np.bincount(np.concatenate(covered), minlength=examples)
            assert (seen == (len(covered) if slices == "whole" else 1)).all()
    lengths = plan._lengths(ClientScalars(3, examples, Scalars(1, tuple(range(1, count + 1)), ())))
    assert [block for block, _ in lengths] == plan.probed_blocks
    directions = {direction.index for nest in nests for direction in nest.upper}
    assert directions == set(range(len(lengths[-1][1])))
    assert len(lengths) == 1 or len(lengths[0][1]) == (len(nests) if plan.nested else len(probes))
    longest = max(len(part) for part in [probe.examples for probe in probes] + [nest.examples for nest in nests])
    assert spec.largest_batch(examples) >= min(longest, spec.micro_batch)


@pytest.mark.parametrize("layout", [LAYOUT, ABOVE])
@pytest.mark.parametrize("split", ["apart", "nested"])
@pytest.mark.parametrize("slices", ["own", "whole"])
def test_it_counts_the_passes_that_it_makes(slices: str, split: str, layout: Layout) -> None:
    spec = made(slices=slices, split=split)
    plane = Plane(WEIGHTS.copy())
    contributed(spec, plane, layout)
    share = layout.cut.share if layout.cut else 1.0
    below = 0 if layout is ABOVE else plane.below  # kept
    made_passes = plane.whole + (1 - share) * below + share * plane.above
    assert share == 0.25
    assert FedSPZO(spec, layout).forwards(Tier.LOW, EXAMPLES) == pytest.approx(made_passes, abs=0.5)


def test_scalars_of_another_number_are_refused_and_the_right_ones_move_both_parts() -> None:
    algorithm = FedSPZO(made(), LAYOUT)
    found = contributed(algorithm.spec)
    algorithm.check(work(), Tier.LOW, EXAMPLES, found)
    with pytest.raises(ValueError, match="4 probes, 5 were asked for with 7 examples"):
        algorithm.check(work(), Tier.LOW, EXAMPLES, replace(found, probes=found.probes[1:]))
    steps = algorithm.aggregate(Start(WEIGHTS, GRID), [ClientScalars(9, EXAMPLES, found)]).steps(GRID)
    assert [(step.block.name, len(step.ticks)) for step in steps] == [("lower", 2), ("upper", 3), ("head", 5)]


SPEC: dict[str, Any] = {"algorithm": "fedspzo", "rounds": 3, "cut": 3}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"cut": None}, "zeroth_order.cut is missing"),
        ({"cut": -1}, "zeroth_order.cut = -1: must be 0 to 4096, the first layer of the upper part"),
        (
            {"probes": [4]},
            "zeroth_order.probes = [4]: must be [P1, P2], 0 to 4096 below the cut and 1 to 4096 above it",
        ),
        ({"probes": [4, 0]}, "zeroth_order.probes = [4, 0]: must be [P1, P2]"),
        ({"probes": [100, 100], "split": "nested"}, 'must be at most 4096 in all with split = "nested"'),
        ({"probes": 4}, "zeroth_order.probes = 4"),
        ({"split": "both"}, "zeroth_order.split = 'both': must be 'apart' or 'nested'"),
        ({"train": "head"}, "zeroth_order.train = 'head': must be what has probes, not the head alone"),
        ({"train": "heads"}, "zeroth_order.train = 'heads': must be"),
        ({"head_projections": 0}, "zeroth_order.head_projections = 0: must be at least 1"),
        ({"local_steps": 2}, 'zeroth_order.local_steps is not a setting of algorithm "fedspzo"'),
        ({"gradient_projections": 2}, 'zeroth_order.gradient_projections is not a setting of algorithm "fedspzo"'),
        ({"slices": "half"}, "zeroth_order.slices = 'half'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changed: dict[str, Any], sentence: str) -> None:
    given_settings = {name: value for name, value in {**SPEC, **changed}.items() if value is not None}
    raw = {"name": "x", "model": {"name": "hf:m"}, "warmup": {"rounds": 1}, "evaluation": {"data": "digits:test"}}
    with pytest.raises(RunFileError) as refused:
        run_file_of({**raw, "zeroth_order": given_settings}, "run.toml")
    assert sentence in str(refused.value)


def test_nothing_below_the_cut_moves_with_no_probes_there() -> None:
    spec = zeroth_order_settings(**SPEC, probes=(0, 5))
    assert (spec.only_above, spec.cut_at, spec.moved, spec.most_probes) == (True, 3, "norm", 5)
    assert CutPlan(spec, ABOVE).lower is None and CutPlan(spec, ABOVE).probes(100) == 5
    assert not made().only_above
