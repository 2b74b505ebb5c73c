"""The settings of differential privacy: the section [privacy] of the run file (docs/method.md, docs/security.md).

What is protected is one example of one client: of two data sets of a client that differ in one example (another in its place; how
many there are is known), all that a device sends in the zeroth-order rounds is nearly as likely from the one as from the other.
"""

import math
from dataclasses import dataclass
from typing import Literal

from zowarmup.common.algorithms.gaussian_privacy import epsilon_of, multiplier_for
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder, require
from zowarmup.common.algorithms.shared_noise import NoiseShares
from zowarmup.common.secure_aggregation.roster import FEWEST, threshold_of

MOST_MULTIPLIER = 1000.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a device may release, and how.

    Args:
        multiplier: The noise multiplier of each release (`algorithms.private_release`).
        releases: How many a device makes at most, of one round each.
        delta: That of the guarantee.
        clip: The most that the root mean square of an example's scalars counts, nats per unit of weight.
    """

    multiplier: float
    releases: int
    delta: float
    clip: float

    def epsilon(self, releases: int) -> float:
        """That of the guarantee after so many releases; infinite where it is none."""
        return epsilon_of(self.multiplier, releases, self.delta)

    def spent(self, releases: int) -> str:
        """How much of it is used up after so many releases, as a clause."""
        now, most = self.epsilon(releases), self.epsilon(self.releases)
        return f"epsilon {now:.3g} of {most:.3g} at delta {self.delta:g}, {releases} of {self.releases} releases"


@dataclass(frozen=True, kw_only=True, slots=True)
class Privacy:
    """What devices send after the pivot: differential privacy of it, and secure aggregation.

    Args:
        mode: None ("off"); or each device adds as much noise as it takes by itself, so that nobody, the coordinator included, has
            to be trusted ("local"); or each adds its share of what the sum of a round needs ("aggregate"), which takes
            `secure_aggregation`, and that no more than `colluders` of a round are in league with who sees the sum.
        epsilon: The budget of a device for the whole run, 0.01 to 100, from which the noise follows; 0: `noise_multiplier` is given.
        delta: The other number of the guarantee, above 0 and at most 0.01; less than one over the examples of the largest device.
        clip: The most that the root mean square of an example's scalars counts, nats per unit of weight, 1e-6 to 1e6: what is
            larger is scaled down to it.
        noise_multiplier: The noise's standard deviation over what one example moves the sum by at most, 0.01 to 1000; 0: it
            follows from `epsilon`.
        releases: How many rounds a device contributes to at most; afterwards it is not asked any more. 0: as many as there are
            zeroth-order rounds. Where a round draws few of many devices, a device is asked less often, and a smaller number
            means less noise.
        warmup_data: Whether what the warm-up trains on is the devices' own data ("private"), of which deltas tell without a bound, so
            that there must be no warm-up; or all that may be known ("public").
        secure_aggregation: Whether the coordinator learns of each round the sum alone, and of no device what it gave.
        colluders: With "aggregate": for how many devices of a round the others' noise is enough without theirs, 0 to 300. A
            device knows its own noise, so 1, the default, is what it takes against a coordinator and any one device.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
    """

    mode: Literal["off", "local", "aggregate"] = "off"
    epsilon: float = 0.0
    delta: float = 1e-5
    clip: float = 1.0
    noise_multiplier: float = 0.0
    releases: int = 0
    warmup_data: Literal["private", "public"] = "private"
    secure_aggregation: bool = False
    colluders: int = 1

    def __post_init__(self) -> None:
        epsilon, multiplier = self.epsilon, self.noise_multiplier
        require(epsilon == 0 or 0.01 <= epsilon <= 100, "epsilon", epsilon, "0 or 0.01 to 100")
        require(0 < self.delta <= 0.01, "delta", self.delta, "above 0 and at most 0.01")
        require(1e-6 <= self.clip <= 1e6, "clip", self.clip, "1e-6 to 1e6")
        known = multiplier == 0 or 0.01 <= multiplier <= MOST_MULTIPLIER
        require(known, "noise_multiplier", multiplier, f"0 or 0.01 to {MOST_MULTIPLIER:g}")
        require(0 <= self.releases <= 1_000_000_000, "releases", self.releases, "0 to 1000000000")
        summed = self.secure_aggregation or not self.shares_noise
        remedy = 'true with mode = "aggregate": a share of the noise hides nothing where it is seen apart from the others; else take mode = "local"'
        require(summed, "secure_aggregation", self.secure_aggregation, remedy)
        require(0 <= self.colluders <= 300, "colluders", self.colluders, "0 to 300")
        known = self.shares_noise or self.colluders == 1
        require(known, "colluders", self.colluders, '1, the default, unless mode = "aggregate"')
        if self.on:
            one = (epsilon == 0) != (multiplier == 0)
            require(one, "epsilon", epsilon, "above 0, or else noise_multiplier, and not both of them")

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return self.mode != "off"

    @property
    def shares_noise(self) -> bool:
        """Whether each device adds a share of the noise, and not all of it."""
        return self.mode == "aggregate"

    def fewest(self, members: int) -> int:
        """How many devices add noise to a round's sum at least and do not tell it.

        Args:
            members: How many have advertised keys for the round.

        Returns:
            The fewest that its sum may be of, less `colluders`; 0 where the round is too small for these to learn no more than the sum.
        """
        threshold = threshold_of(members)
        kept = members >= FEWEST and self.colluders < 2 * threshold - members
        return threshold - self.colluders if kept else 0

    def multiplier_alone(self, zeroth_order: ZerothOrder) -> float:
        """The noise multiplier of what a device sends by itself, which counts where somebody sees it apart from the sum.

        Args:
            zeroth_order: The settings of the run's rounds.

        Returns:
            With shared noise that of the largest round that there may be, in which a share is smallest.
        """
        share = max(1, self.fewest(zeroth_order.drawn)) if self.shares_noise else 1
        return self.budget(zeroth_order.rounds).multiplier / math.sqrt(share)

    def budget(self, rounds: int) -> Budget:
        """The budget of each device.

        Args:
            rounds: How many zeroth-order rounds the run has, at least 1.
        """
        releases = self.releases or rounds
        multiplier = self.noise_multiplier or multiplier_for(self.epsilon, self.delta, releases)
        return Budget(multiplier, releases, self.delta, self.clip)

    def check_run(self, warmup: WarmUp, zeroth_order: ZerothOrder) -> None:
        """Refuse phases that do not keep what is promised. Raises ValueError; the sentence names the setting."""
        if self.secure_aggregation:
            self._check_sums(warmup, zeroth_order)
        if not self.on:
            return
        kept = not warmup.rounds or self.warmup_data == "public"
        reason = (
            '"public" where there is a warm-up: a delta has no noise and no bound on what it tells of the data that it was trained on, \
so say that this may be known, or set warmup.rounds = 0'
        )
        require(kept, "privacy.warmup_data", self.warmup_data, reason)
        require(zeroth_order.rounds > 0, "zeroth_order.rounds", zeroth_order.rounds, "at least 1 with [privacy]")
        try:
            zeroth_order.check_private()
        except ValueError as error:
            raise ValueError(f"zeroth_order.{error}") from None
        budget = self.budget(zeroth_order.rounds)
        most, epsilon = f"at most {MOST_MULTIPLIER:g}", budget.epsilon(budget.releases)
        if self.epsilon:
            allowed = f"larger, or releases lower: the noise would be {budget.multiplier:.4g} times what an example moves, {most}"
            require(budget.multiplier <= MOST_MULTIPLIER, "privacy.epsilon", self.epsilon, allowed)
        allowed = f"larger: {budget.releases} releases with it have no epsilon below 500 at delta {self.delta:g}"
        require(math.isfinite(epsilon), "privacy.noise_multiplier", self.noise_multiplier, allowed)
        if self.shares_noise:
            self._check_shares(zeroth_order)

    def _check_shares(self, zeroth_order: ZerothOrder) -> None:
        """Refuse rounds in which devices cannot add noise together."""
        allowed = '"examples" with privacy.mode = "aggregate": in a mean of means an example of the smallest device counts most, and noise would be made for it'
        require(zeroth_order.weighting == "examples", "zeroth_order.weighting", zeroth_order.weighting, allowed)
        needed = min(zeroth_order.minimum_clients or zeroth_order.drawn, zeroth_order.clients_per_round)
        quorum = max(FEWEST, math.ceil(zeroth_order.quorum * needed - 1e-9))
        small = next((n for n in range(quorum, zeroth_order.drawn + 1) if not self.fewest(n)), 0)
        allowed = f"fewer: in a round of {small}, which zeroth_order.clients_per_round, minimum_clients and quorum allow, {threshold_of(small)} must stay, \
and more than {2 * threshold_of(small) - small - 1} in league undo secure aggregation itself"
        require(not small, "privacy.colluders", self.colluders, allowed)

    def _check_sums(self, warmup: WarmUp, zeroth_order: ZerothOrder) -> None:
        """Refuse phases that secure aggregation cannot protect."""
        bare = (
            '"public" where there is a warm-up and secure_aggregation: a delta has no mask, so say that the data may be known, \
or set warmup.rounds = 0'
        )
        kept = not warmup.rounds or self.warmup_data == "public"
        require(kept, "privacy.warmup_data", self.warmup_data, bare)
        try:
            zeroth_order.check_sums()
        except ValueError as error:
            raise ValueError(f"zeroth_order.{error}") from None


def noise_shares(privacy: Privacy, rounds: int, members: int) -> NoiseShares:
    """How the devices of a round add noise together.

    Args:
        privacy: The run's, with mode "aggregate".
        rounds: How many zeroth-order rounds the run has, at least 1.
        members: How many have advertised keys for the round.

    Raises:
        ValueError: These are too few for `colluders`.
    """
    fewest = privacy.fewest(members)
    if not fewest:
        raise ValueError(
            f"{members} devices are too few to add noise together where {privacy.colluders} may tell theirs"
        )
    return NoiseShares(privacy.clip, privacy.budget(rounds).multiplier, fewest)
