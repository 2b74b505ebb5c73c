"""What a contribution costs its client, in forward passes over examples: pure.

One pass of one example forward counts 1, a training step on it 3 (a backward pass costs about two forward ones). It is
counted from what the run's settings make a client do, and not measured: the same on every machine.
"""

from zowarmup.common.run import RunFile
from zowarmup.common.work import Contribution, Delta, Tier

TRAINING = 3
"""Forward passes that a step of back-propagation counts for, on the same examples."""


def forwards(run: RunFile, tier: Tier, examples: int, contribution: Contribution) -> int:
    """What it took a client of a tier with so many examples to make it."""
    if isinstance(contribution, Delta):
        return TRAINING * run.warmup.epochs * examples
    phase = run.zeroth_order
    if tier is Tier.HIGH and phase.gradient_projections:
        return TRAINING * examples
    sides = 2
    passes = sides if phase.slices == "own" else sides * phase.probes
    return phase.local_steps * passes * examples
