"""ZOWarmUp against closed forms: a quadratic, whose derivatives are exact at any eps, and a two-layer classifier in float64."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from zowarmup.common.algorithms.directional_derivatives import project
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient, Start
from zowarmup.common.algorithms.zowarmup import FLAT, STEEP, ZOWarmUp
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.values import LONGEST_REASON, Phase, Scalars, Tier, Work

GRID = Grid(20)
ONE = 1 << 20  # ticks
INPUTS, HIDDEN, CLASSES, BUFFER = 3, 4, 3, 2
TRUNK, TRAINABLE = HIDDEN * INPUTS, HIDDEN * INPUTS + CLASSES * HIDDEN + CLASSES
LAYOUT = Layout(
    tensors=(
        Tensor("hidden", (HIDDEN, INPUTS), 0),
        Tensor("out.weight", (CLASSES, HIDDEN), TRUNK),
        Tensor("out.bias", (CLASSES,), TRUNK + CLASSES * HIDDEN),
        Tensor("buffer", (BUFFER,), TRAINABLE),
    ),
    trainable=TRAINABLE,
    size=TRAINABLE + BUFFER,
    blocks=(Block("all", 0, TRAINABLE), Block("trunk", 0, TRUNK), Block("head", TRUNK, TRAINABLE)),
    head=Head("out.weight", "out.bias", HIDDEN, CLASSES),
)
HEADLESS = replace(LAYOUT, blocks=LAYOUT.blocks[:1], head=None)

Vector = NDArray[np.float32]
Wide = NDArray[np.float64]


def algorithm(layout: Layout = LAYOUT, **settings: object) -> ZOWarmUp:
    spec = zeroth_order_settings(rounds=10, probes=4, head_projections=5, eps=1e-3, rate=1.0)
    return ZOWarmUp(replace(spec, **settings), layout)


def work(seed: int = 7, round: int = 3) -> Work:
    return Work(round, Phase.ZEROTH_ORDER, 12, seed, 60.0)


def drawn(seed: int = 0) -> Vector:
    return GRID.quantise(np.random.default_rng(seed).normal(0, 0.5, LAYOUT.size))


def signs(seed: int, index: int, block: Block) -> Wide:
    """z in full, zero outside its block: float64 (size,)."""
    z = np.zeros(LAYOUT.size)
    bytes_ = lanes(seed, index // 8, block.start, block.size)
    z[block.start : block.stop] = 2.0 * (bytes_ >> np.uint8(index % 8) & 1) - 1
    return z


@dataclass
class Recorded:
    """A forward pass that notes on which examples and at which weights it was asked, and fails when it is told to."""

    weights: Vector
    fails_at: int = -1
    asked: list[tuple[list[int], Vector]] = field(default_factory=list)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        if len(self.asked) == self.fails_at:
            raise ConnectionError("the device lost power")
        self.asked.append((examples.tolist(), self.weights.copy()))
        return self.loss(examples, head_gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[Vector]:
        raise NotImplementedError("no head reads anything here")

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        return LossAndGradient(0.0, np.zeros(TRAINABLE - TRUNK) if head_gradient else None)


@dataclass
class Quadratic(Recorded):
    """Example i has the loss |w - c_i|^2 / 2, centres (n, size)."""

    centres: Wide = field(default_factory=lambda: np.random.default_rng(1).normal(size=(10, LAYOUT.size)))

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        return LossAndGradient(float(((self.weights.astype(np.float64) - self.centres[examples]) ** 2).sum() / 2), None)


@dataclass
class Classifier(Recorded):
    """tanh(hidden x), then a linear classifier under cross-entropy, all in float64."""

    inputs: Wide = field(default_factory=lambda: np.random.default_rng(2).normal(size=(10, INPUTS)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.random.default_rng(3).integers(0, CLASSES, 10))

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        total, gradient = self.differentiated(self.weights, examples)
        return LossAndGradient(total, gradient[TRUNK:TRAINABLE] if head_gradient else None)

    def differentiated(self, weights: Vector, examples: NDArray[np.int64]) -> tuple[float, Wide]:
        """The summed loss and its gradient in all weights, float64 (size,)."""
        w = weights.astype(np.float64)
        hidden, out = w[:TRUNK].reshape(HIDDEN, INPUTS), w[TRUNK : TRAINABLE - CLASSES].reshape(CLASSES, HIDDEN)
        x, wanted = self.inputs[examples], np.eye(CLASSES)[self.labels[examples]]
        features = np.tanh(x @ hidden.T)
        odds = np.exp(features @ out.T + w[TRAINABLE - CLASSES : TRAINABLE])
        odds /= odds.sum(axis=1, keepdims=True)
        residual = odds - wanted
        back = (residual @ out) * (1 - features**2)
        parts = [(back.T @ x).ravel(), (residual.T @ features).ravel(), residual.sum(axis=0), np.zeros(BUFFER)]
        return float(-np.log((odds * wanted).sum(axis=1)).sum()), np.concatenate(parts)

    def gradient(self, weights: Vector) -> Wide:
        """Of the mean loss over all examples."""
        return self.differentiated(weights, np.arange(10))[1] / 10


@pytest.mark.parametrize("slices", ["own", "whole"])
@pytest.mark.parametrize("eps", [1e-3, 1.3 * 2**-20, 0.3 * 2**-20, 0.25])
def test_derivatives_of_a_quadratic(slices: str, eps: float) -> None:
    """z . (w - mean centre) whatever eps, since the eps that counts is the one in whole ticks."""
    weights = drawn()
    forward = Quadratic(weights)
    scalars = algorithm(HEADLESS, slices=slices, eps=eps).contribute(weights, GRID, forward, 10, work())
    for index, derivative in enumerate(scalars.probes):
        chosen = forward.asked[2 * index][0]
        expected = signs(7, index, HEADLESS.block("all")) @ (weights - forward.centres[chosen].mean(axis=0))
        assert derivative == pytest.approx(expected, rel=1e-6 if eps > 1e-5 else 1e-3, abs=1e-6 if eps > 1e-5 else 1e-3)
        assert derivative == np.float32(derivative)
    assert scalars.projections == ()
    assert scalars.round == 3


def test_both_sides_of_every_probe_are_exact() -> None:
    weights = drawn()
    before = weights.copy()
    forward = Recorded(weights)
    algorithm(probes=10).contribute(weights, GRID, forward, 10, work())
    length = GRID.whole_ticks(1e-3) * GRID.tick
    for call, (_, seen) in enumerate(forward.asked):
        move = (1, -1)[call % 2] * length * signs(7, call // 2, LAYOUT.block("trunk"))
        assert np.array_equal(seen.astype(np.float64), before + move)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_own_slices_partition_the_data(examples: int, probes: int, seed: int) -> None:
    weights = drawn()
    forward = Recorded(weights)
    zo = algorithm(probes=probes)
    scalars = zo.contribute(weights, GRID, forward, examples, work(seed))
    above, below = forward.asked[::2], forward.asked[1::2]
    slices = [chosen for chosen, _ in above]
    assert slices == [chosen for chosen, _ in below]
    assert sorted(itertools.chain(*slices)) == list(range(examples))
    assert len(slices) == len(scalars.probes) == zo.probes(examples) == min(probes, examples)
    sizes = [len(chosen) for chosen in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_slices_are_new_every_round_and_follow_the_seed() -> None:
    def order(seed: int) -> list[int]:
        weights = drawn()
        forward = Recorded(weights)
        algorithm().contribute(weights, GRID, forward, 40, work(seed))
        return list(itertools.chain(*(chosen for chosen, _ in forward.asked[::2])))

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != list(range(40))


def test_whole_slices_are_all_of_the_data() -> None:
    weights = drawn()
    forward = Recorded(weights)
    zo = algorithm(slices="whole")
    zo.contribute(weights, GRID, forward, 3, work())
    assert [chosen for chosen, _ in forward.asked] == [[0, 1, 2]] * 8
    assert zo.probes(3) == 4


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1e300])
def test_scalars_that_are_not_finite_are_refused(loss: float) -> None:
    class Broken(Recorded):
        def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
            return LossAndGradient(loss if len(self.asked) % 2 else 0.0, None)

    weights = drawn()
    before = weights.tobytes()
    advice = r"not finite; check this device's data, or .* a lower zeroth_order\.rate \(it is "
    with pytest.raises(ValueError, match=advice) as raised:
        algorithm(HEADLESS).contribute(weights, GRID, Broken(weights), 10, work())
    assert len(str(raised.value)) <= LONGEST_REASON
    assert weights.tobytes() == before


def test_a_probe_beyond_the_grid_changes_nothing() -> None:
    weights = GRID.quantise(np.zeros(LAYOUT.size))
    fine = Grid(23)
    with pytest.raises(HeadroomExceeded, match=r"^zeroth_order\.eps \(1\) is too long: "):
        algorithm(eps=1.0, tau=1.5).contribute(weights, fine, Classifier(weights), 10, work())
    assert not weights.any()


@pytest.mark.parametrize(("rate", "local_rate", "named"), [(0.5, 1000.0, "local_rate"), (1000.0, 0.0, "rate")])
def test_local_steps_beyond_the_grid_name_the_rate(rate: float, local_rate: float, named: str) -> None:
    weights = drawn()
    before = weights.tobytes()
    with pytest.raises(HeadroomExceeded, match=rf"^zeroth_order\.{named} is too high for local steps: "):
        algorithm(local_steps=2, rate=rate, local_rate=local_rate).contribute(
            weights, GRID, Classifier(weights), 10, work()
        )
    assert weights.tobytes() == before


@pytest.mark.parametrize("count", [1, 5, 8, 21])
@pytest.mark.parametrize("slices", ["own", "whole"])
def test_projections_are_of_the_heads_gradient(count: int, slices: str) -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = algorithm(head_projections=count, slices=slices)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    assert len(scalars.projections) == zo.projections() == count
    head = LAYOUT.block("head")
    gradient = forward.gradient(weights)
    sampled = [forward.differentiated(seen, np.array(chosen))[1] for chosen, seen in forward.asked]
    mean = np.sum(sampled, axis=0) / sum(len(chosen) for chosen, _ in forward.asked)
    for index, projection in enumerate(scalars.projections):
        z = signs(7, index, head)
        assert projection == pytest.approx(z @ mean, rel=1e-6, abs=1e-7)
        # Averaged over w + eps z and w - eps z, so the error is of the order of eps^2.
        assert projection == pytest.approx(z @ gradient, abs=1e-4)


def test_project_walks_a_block_of_any_place_and_length() -> None:
    block = Block("head", 5, 100_005)
    gradient = np.random.default_rng(0).normal(size=block.size)
    for index, found in enumerate(project(gradient, 11, block, 11)):
        z = 2.0 * (lanes(11, index // 8, block.start, block.size) >> np.uint8(index % 8) & 1) - 1
        assert found == pytest.approx(z @ gradient, rel=1e-9)


def test_what_is_probed() -> None:
    assert algorithm().probed == LAYOUT.block("trunk")
    assert algorithm(head_projections=0).probed == LAYOUT.block("all")
    assert algorithm(HEADLESS).probed == HEADLESS.block("all")
    assert algorithm(HEADLESS).projections() == 0


ALONE = replace(LAYOUT, frozen=TRUNK)
PART = replace(
    LAYOUT,
    tensors=(Tensor("first", (4,), 0), Tensor("hidden", (TRUNK - 4,), 4), *LAYOUT.tensors[1:]),
    blocks=(*LAYOUT.blocks, Block("probed", 4, TRUNK)),
    frozen=4,
)


def test_of_a_trunk_that_is_trained_in_part_only_that_part_is_probed_and_moves() -> None:
    zo, weights = algorithm(PART, train="norm"), drawn()
    assert zo.probed == Block("probed", 4, TRUNK)
    forward = Classifier(weights)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    for chosen, seen in forward.asked:
        assert np.array_equal(seen[:4], weights[:4]) and not np.array_equal(seen[4:TRUNK], weights[4:TRUNK]), chosen
    steps = aggregating.steps(zo, GRID, 0, [ClientScalars(7, 10, scalars)])
    assert {step.block.name for step in steps} == {"probed", "head"}


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("step", ["normalized", "raw"])
def test_the_head_alone_takes_one_forward_pass_and_no_probe(step: str, local_steps: int) -> None:
    zo, weights = algorithm(ALONE, train="head", step=step, local_steps=local_steps, rate=0.25), drawn()
    before, forward = weights.tobytes(), Classifier(weights)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    assert weights.tobytes() == before
    assert [chosen for chosen, _ in forward.asked] == [list(range(10))] * local_steps
    assert (scalars.probes, len(scalars.projections)) == ((), 5 * local_steps)
    assert zo.counts(Tier.LOW, 10) == (0, 5 * local_steps)
    assert (zo.forwards(Tier.LOW, 10), zo.walks(Tier.LOW, 10)) == (10 * local_steps, 0)
    gradient = forward.gradient(weights)
    for index, projection in enumerate(scalars.projections[:5]):
        assert projection == pytest.approx(signs(7, index, LAYOUT.block("head")) @ gradient, rel=1e-6, abs=1e-7)
    zo.check(work(), Tier.LOW, 10, scalars)
    (found,) = aggregating.steps(zo, GRID, 0, [ClientScalars(7, 10, scalars)])
    assert found.block.name == "head"


def test_a_normalized_step_of_the_head_alone_is_divided_by_its_projections() -> None:
    zo = algorithm(ALONE, train="head", rate=0.5, clip=0.0)
    parts = [ClientScalars(seed, 10, Scalars(3, (), (3.0, -4.0, 0.0, 0.0, 5.0))) for seed in (1, 2)]
    found = zo.aggregate(Start(drawn(), GRID, 0), parts)
    size = np.sqrt((9 + 16 + 25) / 5)
    assert [move.length for move in found.moves[:5]] == pytest.approx(
        [-0.5 * value / 5 / 2 / size for value in (3.0, -4.0, 0.0, 0.0, 5.0)]
    )


def test_a_gradient_is_projected_on_the_blocks_that_move() -> None:
    gradient = np.random.default_rng(5).normal(size=TRAINABLE)
    head = algorithm(ALONE, train="head", gradient_projections=9)
    scalars = head.project(gradient, work())
    assert (scalars.probes, len(scalars.projections)) == ((), 5)
    head.check(work(), Tier.HIGH, 10, scalars)
    part = algorithm(PART, train="norm", gradient_projections=9)
    scalars = part.project(gradient, work())
    wide = np.append(gradient, np.zeros(BUFFER))
    for index, found in enumerate(scalars.probes):
        assert found == pytest.approx(signs(7, index, Block("probed", 4, TRUNK)) @ wide, rel=1e-6)
    part.check(work(), Tier.HIGH, 10, scalars)


@pytest.mark.parametrize("train", ["everything", "layers:", "layers:a,,b", "norms", ""])
def test_what_is_trained_is_one_of_four(train: str) -> None:
    with pytest.raises(ValueError, match=r"^train = "):
        zeroth_order_settings(rounds=1, train=train)


def test_a_head_without_projections_cannot_be_trained_alone() -> None:
    with pytest.raises(ValueError, match=r"^head_projections = 0: "):
        zeroth_order_settings(rounds=1, train="norm", head_projections=0)


@pytest.mark.parametrize("slices", ["own", "whole"])
@pytest.mark.parametrize(("layout", "projections"), [(LAYOUT, 5), (LAYOUT, 0), (HEADLESS, 0)])
def test_the_mean_over_seeds_is_the_gradient(slices: str, layout: Layout, projections: int) -> None:
    weights = drawn()
    forward = Classifier(weights)
    gradient = forward.gradient(weights)
    zo = algorithm(layout, slices=slices, head_projections=projections, step="raw")
    rounds = 1000
    total = np.zeros(layout.size)
    for seed in range(rounds):
        scalars = zo.contribute(weights, GRID, forward, 10, work(seed))
        forward.asked.clear()
        moved = weights.copy()
        apply_steps(moved, GRID, aggregating.steps(zo, GRID, 0, [ClientScalars(seed, 10, scalars)]))
        total -= moved.astype(np.float64) - weights
    error = np.linalg.norm(total / rounds - gradient) / np.linalg.norm(gradient)
    # Each of the 4 probes has an error of about sqrt(dimension) gradients, independent of the others.
    assert error < 0.2
    assert not total[TRAINABLE:].any()


def test_descent_along_the_estimate_lowers_the_loss() -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = algorithm(rate=0.1, rounds=100)
    losses = []
    for done in range(100):
        losses.append(forward.differentiated(weights, np.arange(10))[0])
        scalars = zo.contribute(weights, GRID, forward, 10, work(done))
        apply_steps(weights, GRID, aggregating.steps(zo, GRID, done, [ClientScalars(done, 10, scalars)]))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("scalars", "sentence"),
    [
        (Scalars(2, (0.0,) * 4, (0.0,) * 5), "for round 2, the work was for round 3"),
        (Scalars(3, (0.0,) * 3, (0.0,) * 5), "3 probes, 4 were asked for with 10 examples"),
        (Scalars(3, (0.0,) * 5, (0.0,) * 5), "5 probes, 4 were"),
        (Scalars(3, (0.0,) * 4, ()), "0 projections, 5 were"),
        (Scalars(3, (0.0, 0.0, 0.0, -2 * STEEP), (0.0,) * 5), "one of the probes is beyond"),
        (Scalars(3, (0.0,) * 4, (0.0, 0.0, 0.0, 0.0, 2 * STEEP)), "one of the projections is beyond"),
    ],
)
def test_check_refuses(scalars: Scalars, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        algorithm().check(work(), Tier.LOW, 10, scalars)


def test_check_counts_the_examples() -> None:
    algorithm().check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 2, (0.0,) * 5))
    algorithm(slices="whole").check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 4, (0.0,) * 5))
    with pytest.raises(ValueError, match="4 probes, 2 were asked for with 2 examples"):
        algorithm().check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 4, (0.0,) * 5))


def ticks(steps: Sequence[Step]) -> list[tuple[int, str, tuple[int, ...]]]:
    return [(step.seed, step.block.name, step.ticks) for step in steps]


def require_nearly(steps: Sequence[Step], expected: list[tuple[int, str, tuple[float, ...]]]) -> None:
    """Ticks between which the expected ones, that need not be whole, lie."""
    assert [(step.seed, step.block.name) for step in steps] == [(seed, block) for seed, block, _ in expected]
    for step, (_, _, exact) in zip(steps, expected, strict=True):
        assert all(abs(tick - length) < 1 for tick, length in zip(step.ticks, exact, strict=True))


def test_combine_raw_exactly() -> None:
    """Clients of 6 and 2 examples weigh 3/4 and 1/4; slices of 2, 2, 1 and 1 examples 1/3, 1/3, 1/6 and 1/6."""
    zo = algorithm(step="raw", rate=0.5, head_projections=2, most_times_median=0)
    contributions = [
        ClientScalars(5, 6, Scalars(3, (3.0, -6.0, 12.0, 0.0), (4.0, -8.0))),
        ClientScalars(9, 2, Scalars(3, (8.0, 16.0), (16.0, 0.0))),
    ]
    assert ticks(aggregating.steps(zo, GRID, 9, contributions)) == [
        (5, "trunk", (round(-ONE * 3 / 8), round(ONE * 6 / 8), round(-ONE * 6 / 8), 0)),
        (5, "head", (round(-ONE * 6 / 8), round(ONE * 12 / 8))),
        (9, "trunk", (round(-ONE * 4 / 8), -ONE)),
        (9, "head", (-ONE, 0)),
    ]


def test_combine_follows_the_order_given() -> None:
    first, second = (
        ClientScalars(5, 10, Scalars(3, (1.0, 2.0, 3.0, 4.0), ())),
        ClientScalars(9, 10, Scalars(3, (5.0, 6.0, 7.0, 8.0), ())),
    )
    zo = algorithm(head_projections=0)
    assert aggregating.steps(zo, GRID, 0, [first, second]) == aggregating.steps(zo, GRID, 0, [second, first])[::-1]
    assert [step.seed for step in aggregating.steps(zo, GRID, 0, [first, second])] == [5, 9]


def test_uniform_weighting_and_whole_slices() -> None:
    zo = algorithm(step="raw", weighting="uniform", slices="whole", probes=2, head_projections=0)
    contributions = [ClientScalars(5, 6, Scalars(3, (1.0, -2.0), ())), ClientScalars(9, 2, Scalars(3, (4.0, 0.0), ()))]
    assert ticks(aggregating.steps(zo, GRID, 0, contributions)) == [
        (5, "all", (-ONE // 4, ONE // 2)),
        (9, "all", (-ONE, 0)),
    ]


def test_the_normaliser_is_the_weighted_root_mean_square_of_the_probes_and_of_longer_projections_theirs() -> None:
    """3/4 (1/2 1^2 + 1/2 7^2) + 1/4 25^2 = 175 for clients of 6 and 2 examples; of the projections, 3/4 100^2."""
    zo = algorithm(probes=2, head_projections=1, rate=2.0, most_times_median=0)
    contributions = [
        ClientScalars(5, 6, Scalars(3, (1.0, 7.0), (100.0,))),
        ClientScalars(9, 2, Scalars(3, (25.0, -25.0), (0.0,))),
    ]
    size = 175.0**0.5
    expected = [
        (5, "trunk", (-2 / size * 0.375 * 1 * ONE, -2 / size * 0.375 * 7 * ONE)),
        (5, "head", (-2 / 7500**0.5 * 0.75 * 100 * ONE,)),
        (9, "trunk", (-2 / size * 0.125 * 25 * ONE, 2 / size * 0.125 * 25 * ONE)),
        (9, "head", (0.0,)),
    ]
    require_nearly(aggregating.steps(zo, GRID, 0, contributions), expected)
    shorter = [ClientScalars(5, 6, Scalars(3, (1.0, 7.0), (10.0,))), contributions[1]]
    require_nearly(aggregating.steps(zo, GRID, 0, shorter)[1:2], [(5, "head", (-2 / size * 0.75 * 10 * ONE,))])


@pytest.mark.parametrize("scale", [2.0**-30, 1.0, 2.0**20])
def test_a_normalised_step_does_not_depend_on_the_losss_scale(scale: float) -> None:
    derivatives, projections = (1.0, 2.0, -3.0, 4.0), (5.0, 6.0, 7.0, 8.0, 9.0)
    scaled = Scalars(3, tuple(scale * s for s in derivatives), tuple(scale * p for p in projections))
    assert aggregating.steps(algorithm(), GRID, 4, [ClientScalars(5, 10, scaled)]) == aggregating.steps(
        algorithm(), GRID, 4, [ClientScalars(5, 10, Scalars(3, derivatives, projections))]
    )


@pytest.mark.parametrize(("done", "share"), [(0, 1.0), (5, 0.5), (9, 0.1)])
def test_normalised_steps_are_annealed(done: int, share: float) -> None:
    zo = algorithm(probes=1, head_projections=0)
    (step,) = aggregating.steps(zo, GRID, done, [ClientScalars(5, 10, Scalars(3, (-3.0,), ()))])
    assert step.ticks == (round(share * ONE),)
    raw = algorithm(probes=1, head_projections=0, step="raw")
    assert aggregating.steps(raw, GRID, done, [ClientScalars(5, 10, Scalars(3, (-3.0,), ()))])[0].ticks == (3 * ONE,)


def test_tau_is_folded_in() -> None:
    """(eps, rate, tau) is (eps tau, rate tau^2, 1)."""
    for step in ("raw", "normalized"):
        plain, folded = (
            algorithm(step=step, eps=0.0009765625, rate=0.25),
            algorithm(step=step, eps=0.001953125, rate=1.0, tau=0.5),
        )
        weights = drawn()
        scalars = plain.contribute(weights, GRID, Classifier(weights), 10, work())
        assert folded.contribute(weights, GRID, Classifier(weights), 10, work()) == scalars
        assert aggregating.steps(folded, GRID, 2, [ClientScalars(7, 10, scalars)]) == aggregating.steps(
            plain, GRID, 2, [ClientScalars(7, 10, scalars)]
        )


@pytest.mark.parametrize("size", [0.0, FLAT / 2])
def test_a_flat_loss_moves_nothing(size: float) -> None:
    steps = aggregating.steps(algorithm(), GRID, 0, [ClientScalars(5, 10, Scalars(3, (size,) * 4, (1.0,) * 5))])
    assert ticks(steps) == [(5, "trunk", (0,) * 4), (5, "head", (0,) * 5)]
    raw = aggregating.steps(algorithm(step="raw"), GRID, 0, [ClientScalars(5, 10, Scalars(3, (0.0,) * 4, (0.0,) * 5))])
    assert ticks(raw) == [(5, "trunk", (0,) * 4), (5, "head", (0,) * 5)]


def test_a_step_too_long_for_the_grid_is_refused() -> None:
    with pytest.raises(HeadroomExceeded, match="too long for the grid"):
        aggregating.steps(algorithm(step="raw"), GRID, 0, [ClientScalars(5, 10, Scalars(3, (STEEP,) * 4, (0.0,) * 5))])


def test_what_combine_asks_for() -> None:
    with pytest.raises(ValueError, match="without contributions"):
        aggregating.steps(algorithm(), GRID, 0, [])
    for done in (-1, 10):
        with pytest.raises(ValueError, match=f"done = {done}: must be 0 to 9"):
            aggregating.steps(algorithm(), GRID, done, [ClientScalars(5, 10, Scalars(3, (1.0,) * 4, (1.0,) * 5))])


def test_a_client_abstains_where_the_coordinator_would_refuse_its_scalars() -> None:
    """At a model that is lost. Refused, it would be waited for until the deadline."""
    weights = drawn()
    before = weights.copy()

    class Lost(Classifier):
        def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
            found = super().loss(examples, head_gradient)
            return LossAndGradient(1e12 * found.loss_sum, found.head_gradient_sum)

    with pytest.raises(ValueError, match="one of the probes is beyond"):
        algorithm().contribute(weights, GRID, Lost(weights), 10, work())
    np.testing.assert_array_equal(weights, before)
    with pytest.raises(ValueError, match="one of the probes is beyond"):
        algorithm(gradient_projections=4).project(np.full(LAYOUT.trainable, 1e12), work())
