"""Releases under differential privacy: each is noised by this device, counted and kept before it leaves.

The noise is from the system's generator, by `random.SystemRandom`, and from nothing else: no seed of the run's, which the coordinator and
every other device know, and no generator whose state could be found from what it has given. What it gives is rounded to a coarse
grid (`algorithms.private_release`), so it need not be more than what Box and Muller make of two uniform numbers of 53 bits.
"""

import logging
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import Final
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Scalars, Work
from zowarmup.common.settings.privacy import Budget

log = logging.getLogger(__name__)


def system_noise(count: int) -> NDArray[np.float64]:
    """So many standard normal variates that nobody can know, float64 (count,)."""
    source = random.SystemRandom()
    return np.array([source.gauss(0.0, 1.0) for _ in range(count)])


class Releasing:
    """The releases of one member of one run.

    Args:
        budget: What it may release, and how.
        file: Where it is kept what it has released.
    """

    def __init__(self, budget: Budget, file: ReleaseFile) -> None:
        self._budget, self._file = budget, file
        self._mechanism = Mechanism(budget.clip, budget.multiplier, system_noise)

    @property
    def spent(self) -> str:
        """How much of the budget is used up, as a clause."""
        return self._budget.spent(self._file.released.count)

    def answer(self, prober: Prober, replica: Replica, work: Work, check: Callable[[], None]) -> Scalars:
        """The scalars for a round: what was released to this work before, or another release. Raises Final where the budget is
        used up."""
        known = self._file.released
        if (same := known.answer(work)) is not None:
            return same
        if known.count >= self._budget.releases:
            raise Final(f"this device has used its privacy budget: {self.spent}")
        scalars = prober.release(replica, work, self._mechanism, check)
        self._file.keep(known.and_then(work, scalars))
        return scalars
