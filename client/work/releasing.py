"""Releases under differential privacy: each is noised by this device, counted and kept before it leaves.

The noise is from the system's generator, by `random.SystemRandom`, and from nothing else: no seed of the run's, which the coordinator and
every other device know, and no generator whose state could be found from what it has given. What it gives is rounded to a coarse
grid (`algorithms.private_release`), so it need not be more than what Box and Muller make of two uniform numbers of 53 bits.
"""

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import Limit
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Scalars, Work
from zowarmup.common.settings.privacy import Budget, noise_shares
from zowarmup.common.settings.run import ClientSpec

if TYPE_CHECKING:
    from zowarmup.client.work.masking import RosterPlace

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
        self._require_more()
        scalars = prober.release(replica, work, self._mechanism, check)
        self._file.keep(known.and_then(work, scalars))
        return scalars

    def clipped(self, prober: Prober, replica: Replica, work: Work, check: Callable[[], None]) -> NDArray[np.float64]:
        """What is to be noised for a round whose devices share the noise; it must not leave. Raises Final where the budget is used up."""
        self._require_more()
        return prober.clipped(replica, work, self._mechanism, check)

    def share(
        self, spec: ClientSpec, clipped: NDArray[np.float64], work: Work, examples: int, place: "RosterPlace"
    ) -> NDArray[np.uint64]:
        """What this device adds to a round's sum, with its share of the noise: a release.

        Args:
            spec: Of the run.
            clipped: What `clipped` gave for the round.
            work: This device's part of it.
            examples: How many it holds.
            place: Where it stands in the round.

        Returns:
            Modulo 2^64, (m,): to be masked.

        Raises:
            Dishonest: Its share would be smaller than the run says.
            Final: The budget is used up, or the count cannot be kept.
        """
        from zowarmup.common.secure_aggregation.device import Dishonest  # which most runs have no use for

        members, rounds = len(place.roster.members), spec.zeroth_order
        if members > rounds.drawn:
            raise Dishonest(
                f"the roster has {members} members, and a round of this run {rounds.drawn} at most: with more of them each "
                "would add less noise"
            )
        self._require_more()
        shares = noise_shares(spec.privacy, rounds.rounds, members)
        found = shares.added(clipped, place.weights[place.number], examples, system_noise(clipped.size))
        self._file.keep(self._file.released.and_then(work, None))
        return found

    def _require_more(self) -> None:
        if self._file.released.count >= self._budget.releases:
            raise Limit(f"this device has used its privacy budget: {self.spent}")


def alone(spec: ClientSpec) -> str:
    """What a device tells by its own noise, as a clause beside what it tells together with others'; empty where nothing is shared."""
    privacy = spec.privacy
    if not privacy.shares_noise:
        return ""
    budget = privacy.budget(spec.zeroth_order.rounds)
    told = epsilon_of(privacy.multiplier_alone(spec.zeroth_order), budget.releases, budget.delta)
    return f", with the other devices' noise; up to {told:.3g} by its own, where its part is seen apart from the sum"
