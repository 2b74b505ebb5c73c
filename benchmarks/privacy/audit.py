"""An audit of the mechanism: how much an attacker is seen to learn of one example, which must be no more than epsilon.

    python -m benchmarks.privacy.audit --trials 20000

The mechanism is the devices' own, and so is its noise. Two data sets differ in a canary, which contributes far more than is counted in one direction or in
the opposite one: no two examples are further apart. Each trial makes all releases of a budget over one of the two, and the attacker adds up how far they
lie along the canary. A threshold that is chosen on half of the trials has false positives and negatives among the others, which, with a confidence of 95 %
(Clopper and Pearson's bounds on both, 97.5 % each), are no more than so many. What they are evidence of: epsilon by its definition, log((1 - delta -
fn) / fp); and epsilon of Gaussian noise that would let an attacker do so well, which is closer (Nasr et al., arXiv 2302.07956). Both stay below
the accountant's epsilon in 95 of 100 audits of noise that is right, and exceed it where there is less of it.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.work.releasing import system_noise
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.algorithms.shared_noise import NoiseShares
from zowarmup.common.settings.privacy import Budget, Privacy

EXAMPLES, SCALARS = 20, 4
FAR = 1e6
CHANCE = 0.025
NORMAL = NormalDist()


@dataclass(frozen=True)
class Evidence:
    """Lower bounds of epsilon: by its definition, and of Gaussian noise."""

    plain: float
    gaussian: float


def audited(
    budget: Budget,
    trials: int,
    noise: Callable[[int], NDArray[np.float64]] = system_noise,
    chance: float = CHANCE,
    devices: int = 0,
) -> Evidence:
    """Audit releases.

    Args:
        budget: Of a device.
        trials: Over each of the two data sets.
        noise: The mechanism's.
        chance: That either bound is wrong.
        devices: That share the noise of a sum, of whom one has the data set and the others none; 0: nothing is shared.
    """
    mechanism, shares = Mechanism(budget.clip, budget.multiplier, noise), None
    if devices:
        shares = NoiseShares(budget.clip, budget.multiplier, devices)

    def released(contributions: NDArray[np.float64], clipped: NDArray[np.float64]) -> float:
        """Along the canary."""
        if shares is None:
            return float(mechanism.release(contributions).sum())
        total, count = np.zeros(SCALARS, np.uint64), len(contributions)
        for number in range(devices):
            total += shares.added(clipped if number == 0 else 0 * clipped, count, count, noise(SCALARS))
        return float(shares.mean(total, devices * count, devices).sum())

    others = np.random.default_rng(0).normal(size=(EXAMPLES - 1, SCALARS))
    scores = []
    for side in (FAR, -FAR):
        contributions = np.vstack([others, np.full((1, SCALARS), side)])
        clipped = mechanism.clipped(contributions)
        told = [sum(released(contributions, clipped) for _ in range(budget.releases)) for _ in range(trials)]
        scores.append(np.array(told))
    inside, outside = scores
    half = trials // 2
    candidates = np.quantile(np.concatenate([inside[:half], outside[:half]]), np.linspace(0.02, 0.98, 97))
    found = [_evidence(inside[:half], outside[:half], at, budget.delta, chance) for at in candidates]
    by_definition = candidates[int(np.argmax([one.plain for one in found]))]
    by_noise = candidates[int(np.argmax([one.gaussian for one in found]))]
    return Evidence(
        _evidence(inside[half:], outside[half:], by_definition, budget.delta, chance).plain,
        _evidence(inside[half:], outside[half:], by_noise, budget.delta, chance).gaussian,
    )


def _evidence(
    inside: NDArray[np.float64], outside: NDArray[np.float64], threshold: float, delta: float, chance: float
) -> Evidence:
    positives = at_most(int((outside > threshold).sum()), len(outside), chance)
    negatives = at_most(int((inside <= threshold).sum()), len(inside), chance)
    right = 1 - delta - negatives
    plain = max(0.0, math.log(right / positives)) if right > 0 else 0.0
    mu = NORMAL.inv_cdf(1 - positives) - NORMAL.inv_cdf(negatives) if positives < 1 and negatives < 1 else 0.0
    return Evidence(plain, epsilon_of(1 / mu, 1, delta) if mu > 1e-3 else 0.0)


def at_most(seen: int, trials: int, chance: float = CHANCE) -> float:
    """The largest probability of something that was seen so often, but for so small a chance (Clopper and Pearson)."""
    if seen == trials:
        return 1.0
    counts = np.arange(seen + 1)
    ways = np.array([math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts])
    low, high = seen / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = (
            ways + counts * math.log(middle) + (trials - counts) * math.log1p(-middle)
            if middle < 1
            else ways - math.inf
        )
        if float(np.exp(terms).sum()) > chance:
            low = middle
        else:
            high = middle
    return high


def main() -> None:
    """Print a row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--releases", type=int, default=10)
    trials, releases = (arguments := parser.parse_args()).trials, arguments.releases
    print(
        "| epsilon, by the accountant | seen, by definition | seen, of Gaussian noise | the same, shared by six | with three quarters of the noise |"
    )
    print("|---|---|---|---|---|")
    for epsilon in (1.0, 2.0, 4.0, 8.0):
        budget = Privacy(mode="local", epsilon=epsilon).budget(releases)
        right, shared = audited(budget, trials), audited(budget, trials, devices=6)
        short = audited(budget, trials, lambda count: 0.75 * system_noise(count))
        print(
            f"| {epsilon:g} | {right.plain:.2f} | {right.gaussian:.2f} | {shared.gaussian:.2f} | {short.gaussian:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
