"""What a client sends against closed forms: a quadratic, whose derivatives are exact at any eps, and a classifier in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import aggregating
from tests.closed_forms import (
    ALONE,
    BUFFER,
    CLASSES,
    GRID,
    HEADLESS,
    LAYOUT,
    PART,
    TRAINABLE,
    TRUNK,
    Classifier,
    Quadratic,
    Recorded,
    algorithm,
    drawn,
    signs,
    work,
)
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block
from zowarmup.common.messages.values import LONGEST_REASON, Tier


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
    assert len(scalars.projections) == zo.plan.projections == count
    head = LAYOUT.block("head")
    gradient = forward.gradient(weights)
    sampled = [forward.differentiated(seen, np.array(chosen))[1] for chosen, seen in forward.asked]
    mean = np.sum(sampled, axis=0) / sum(len(chosen) for chosen, _ in forward.asked)
    for index, projection in enumerate(scalars.projections):
        z = signs(7, index, head)
        assert projection == pytest.approx(z @ mean, rel=1e-6, abs=1e-7)
        # Averaged over w + eps z and w - eps z, so the error is of the order of eps^2.
        assert projection == pytest.approx(z @ gradient, abs=1e-4)


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


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_a_weight_decay_is_in_the_heads_gradient_and_spares_the_bias(decay: float) -> None:
    weights = drawn()
    forward = Classifier(weights)
    settings = algorithm(probes=4, head_projections=6, weight_decay=decay)
    found = settings.contribute(weights, GRID, forward, 10, work())
    plain = algorithm(probes=4, head_projections=6).contribute(weights, GRID, Classifier(weights), 10, work())
    head = LAYOUT.block("head")
    counted = weights.astype(np.float64)
    counted[: head.start] = counted[head.stop - CLASSES :] = 0
    for index in range(6):
        added = decay * (signs(7, index, head) @ counted)
        assert found.projections[index] - plain.projections[index] == pytest.approx(added, abs=1e-5)
    assert found.probes == plain.probes
