"""A client's part of a zeroth-order round: the scalars that it sends, found by forward passes or from a gradient.

The replica is afterwards bit for bit what it was, whatever is raised: probes and local steps are whole ticks of the
grid, so the same exact sums are taken back. What a client sends has passed the check that the coordinator makes of it:
where a loss is not finite, or steeper than any that something is learnt from, the client says so and sends nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.descent import Descent
from zowarmup.common.algorithms.directional_derivatives import (
    GAUSSIAN_SIGNS,
    Measured,
    Probe,
    as_float32,
    head_gradient,
    measure,
    measure_each,
    project,
    project_each,
    summed_signs,
)
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.algorithms.probing import ProbingSettings
from zowarmup.common.algorithms.protocol import ClientScalars, Forward, ForwardByExample
from zowarmup.common.algorithms.scalar_rounding import rounded
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.replica import merged
from zowarmup.common.exact.steps import Step, Weights, apply_steps, part_of
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Scalars, Tier, Work

STEEP = 2.0**32
"""A derivative, nats per unit of weight: beyond it no loss is that anything is learnt from."""


def scalars_by_probing(
    descent: Descent, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work
) -> Scalars:
    """Probe the model, `local_steps` times over.

    Args:
        descent: By whose plan to probe, and down which the local steps go.
        weights: Float32 (layout.size,), or a device's vector; on `grid` in the trainable part, moved in place under
            `forward`.
        grid: That they lie on.
        forward: The model's forward pass over the local data, at `weights` as they are when it is called.
        examples: How many the client holds, at least 1.
        work: The client's part of the round.

    Raises:
        HeadroomExceeded: `eps`, or a local step, is beyond the grid.
        ValueError: A scalar is not finite, or beyond STEEP.
    """
    plan = descent.plan
    derivatives: list[float] = []
    projected: list[float] = []
    moved: list[Step] = []
    by_step = plan.by_step(work.seed, examples)
    try:
        for number, probes in enumerate(by_step):
            found = _measured(plan, weights, grid, forward, examples, probes)
            derivatives += found.derivatives
            if found.head_gradient is not None:
                block, count = plan.layout.block("head"), plan.projections
                gradient = decaying(plan, found.head_gradient, weights)
                projected += project(gradient, work.seed, block, count, number * count)
            if number + 1 < len(by_step):
                scalars = Scalars(work.round, tuple(derivatives), tuple(projected))
                given = ClientScalars(work.seed, examples, scalars)
                moved += _stepped(descent, weights, grid, work.done, given, number, len(probes))
    finally:
        # The same exact sums, taken back.
        apply_steps(weights, grid, [step.reverse for step in merged(moved)])
    return as_sent(plan.spec, work, derivatives, projected)


def scalars_by_example(
    plan: ProbePlan, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work
) -> NDArray[np.float64]:
    """Measure what each example contributes to each scalar. The replica is afterwards what it was.

    Args:
        plan: By which it is done, of probes on all examples and one local step.
        weights: Float32 (layout.size,), or a device's vector; on `grid` in the trainable part, moved in place under
            `forward`.
        grid: That they lie on.
        forward: The model's forward pass over the local data.
        examples: How many the client holds, at least 1.
        work: The client's part of the round.

    Returns:
        Float64 (examples, m), probes and then projections; not finite where a loss is not.

    Raises:
        HeadroomExceeded: `eps` is beyond the grid.
        ValueError: `forward` does not tell examples apart.
    """
    if not isinstance(forward, ForwardByExample):
        raise ValueError("the model's forward pass does not tell examples apart")  # noqa: TRY004
    (probes,) = plan.by_step(work.seed, examples)
    found = np.zeros((examples, len(probes) + plan.projections))
    if probes:
        directions = [probe.direction for probe in probes]
        try:
            measure_each(weights, grid, forward, directions, plan.spec.eps * plan.spec.tau, plan.gaussian, found)
        except HeadroomExceeded as error:
            raise HeadroomExceeded(f"zeroth_order.eps ({plan.spec.eps:g}) is too long: {error}") from error
    if plan.head is not None:
        for part in forward.by_example(True):
            assert part.head_gradients is not None
            projected = project_each(part.head_gradients, work.seed, plan.head, plan.projections)
            found[part.examples, len(probes) :] = projected
    return found


def scalars_of_mean(plan: ProbePlan, weights: Weights, noised: NDArray[np.float64], work: Work) -> Scalars:
    """The scalars that a noised mean of those of examples makes, with what they have of the weights alone. Beyond STEEP each is STEEP: it is
    drawn already, so it leaves and is counted, whatever weights the coordinator has chosen.

    Args:
        plan: By which it was measured.
        weights: At which, float32 (layout.size,), or a device's vector.
        noised: Float64 (m,), as `scalars_by_example` has them.
        work: The part of the round that it was measured for.
    """
    probed, projected = np.split(noised, [len(noised) - plan.projections])
    if plan.head is not None:
        decay = decaying(plan, np.zeros(plan.head.size), weights)  # of what everybody has
        projected = projected + project(decay, work.seed, plan.head, plan.projections)
    return as_sent(plan.spec, work, _within(probed), _within(projected))


def _within(noised: NDArray[np.float64]) -> list[float]:
    """Each between -STEEP and STEEP."""
    return [min(max(float(value), -STEEP), STEEP) for value in noised]


def scalars_by_gradient(plan: ProbePlan, gradient: NDArray[np.float64], work: Work) -> Scalars:
    """Project a gradient on as many directions as the high tier sends.

    Args:
        plan: By which it is done.
        gradient: Of the mean local loss by all that is trainable, float64 (layout.trainable,).
        work: The client's part of the round.

    Raises:
        ValueError: A scalar is not finite, or beyond STEEP.
    """
    probed, projected = plan.counts(Tier.HIGH, 1)
    probed *= GAUSSIAN_SIGNS if plan.gaussian else 1
    found = [
        project(gradient[block.start : block.stop], work.seed, block, count) if block else []
        for block, count in ((plan.probed, probed), (plan.head, projected))
    ]
    return as_sent(plan.spec, work, summed_signs(found[0]) if plan.gaussian else found[0], found[1])


def check_steepness(scalars: Scalars) -> None:
    """Raises ValueError, naming the kind, where a scalar is beyond STEEP."""
    for name, values in (("probes", scalars.probes), ("projections", scalars.projections)):
        if any(abs(value) > STEEP for value in values):
            raise ValueError(f"scalars: one of the {name} is beyond {STEEP:g}; no loss is as steep")


def _measured(
    plan: ProbePlan, weights: Weights, grid: Grid, forward: Forward, examples: int, probes: Sequence[Probe]
) -> Measured:
    """What probes find or, where there are none, the head's gradient over all examples."""
    if not probes:
        return Measured([], head_gradient(forward, examples))
    eps = plan.spec.eps * plan.spec.tau
    try:
        return measure(weights, grid, forward, probes, eps, plan.projections > 0, plan.gaussian)
    except HeadroomExceeded as error:
        raise HeadroomExceeded(f"zeroth_order.eps ({plan.spec.eps:g}) is too long: {error}") from error


def decaying(plan: ProbePlan, gradient: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """The head's gradient of the loss with `weight_decay`, from that of the loss.

    Args:
        plan: By which it is projected.
        gradient: Float64 (head block's size,).
        weights: The model's.
    """
    head, decay = plan.layout.head, plan.decay
    if head is None or not decay:
        return gradient
    start, size = plan.layout.block("head").start, head.classes * head.features
    decaying = gradient.copy()
    decaying[:size] += decay * part_of(weights, start, start + size)
    return decaying


def _stepped(
    descent: Descent, weights: Weights, grid: Grid, done: int, given: ClientScalars, number: int, latest: int
) -> tuple[Step, ...]:
    """Take a local step (`Descent.local_step`); its steps, to be taken back."""
    try:
        steps = descent.local_step(grid, done, given, number, latest)
        apply_steps(weights, grid, steps)
    except HeadroomExceeded as error:
        rate = "local_rate" if descent.spec.local_rate else "rate"
        raise HeadroomExceeded(f"zeroth_order.{rate} is too high for local steps: {error}") from error
    return steps


def as_sent(spec: ProbingSettings, work: Work, probes: Sequence[float], projections: Sequence[float]) -> Scalars:
    """What a client sends, rounded as the settings say.

    Args:
        spec: The settings.
        work: The client's part of the round.
        probes: Derivatives, nats per unit of weight.
        projections: The same, of the head's gradient.

    Raises:
        ValueError: One is not finite, or beyond STEEP; the sentence says what may be done.
    """
    try:
        scalars = Scalars(work.round, as_float32(probes), as_float32(projections))
        check_steepness(scalars)
    except ValueError as error:
        raise ValueError(
            f"{error}; check this device's data, or where most devices say so begin another run with a lower "
            f"zeroth_order.rate (it is {spec.rate:g})"
        ) from None
    return rounded(scalars, Precision(spec.scalars), work.seed)
