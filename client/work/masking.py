"""This device's part in rounds with secure aggregation: its scalars stay here, and the coordinator gets keys and masked numbers.

What a round needs is held in memory only and is gone with the next. A device that starts again in its midst drops out of it.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Algorithm, ClientScalars
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.algorithms.settings import Weighting
from zowarmup.common.messages.masking import Keys, MaskingAsk, MaskingStep
from zowarmup.common.messages.values import Scalars, Tier, Work
from zowarmup.common.secure_aggregation.device import MaskingDevice
from zowarmup.common.secure_aggregation.fixed_point import encoded, whole_weights
from zowarmup.common.secure_aggregation.roster import Roster, Stage, asked


class BegunAnew(ValueError):
    """The round is one that this process has advertised no keys for."""


@dataclass(frozen=True, slots=True)
class RosterPlace:
    """Where this device stands in a round, by the roster, which all others have signed.

    Args:
        roster: Of the round.
        weights: What each of its members counts with.
        number: Which of them this device is.
    """

    roster: Roster
    weights: tuple[int, ...]
    number: int


@dataclass(slots=True)
class _Open:
    """A round in progress: what this device has to give to it, and to whom it has sealed its shares."""

    work: Work
    give: Callable[[RosterPlace], NDArray[np.uint64]]
    device: MaskingDevice
    place: RosterPlace | None = None
    given: NDArray[np.uint64] | None = None


class Masking:
    """The device in one round after the other.

    Args:
        run_id: Of the run.
        client: This device's name in it.
        identity: Its private Ed25519 key.
        weighting: The settings of the zeroth-order rounds.
        offer: SHA-256 of what the run was said to be.
        random: Gives so many random bytes.
    """

    def __init__(
        self,
        run_id: str,
        client: str,
        identity: bytes,
        weighting: Weighting,
        offer: bytes,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._run_id, self._client, self._identity = run_id, client, identity
        self._weighting, self._random, self._offer = weighting, random, offer
        self._open: _Open | None = None
        self._weights = b""

    def measure(self, weights: NDArray[np.float32]) -> None:
        """Note what the scalars are of that `begin` is handed next. The digest of a replica is against accidents, and not against who makes
        other weights with the same one.

        Args:
            weights: Float32 (n,), between two probes.
        """
        self._weights = hashlib.sha256(np.ascontiguousarray(weights, "<f4").data).digest()

    def begin(self, work: Work, algorithm: Algorithm, tier: Tier, examples: int, scalars: Scalars) -> Keys:
        """Hold scalars for a round, and make the keys for it. The round before is forgotten.

        Args:
            work: The device's part of the round.
            algorithm: The round's.
            tier: The device's.
            examples: How many it holds.
            scalars: What it has to give.
        """

        def summand(place: RosterPlace) -> NDArray[np.uint64]:
            roster = place.roster
            limits = algorithm.sum_limits(roster.bounds, work.done)
            few = roster.shared([algorithm.counts(Tier.LOW, member.examples)[0] for member in roster.members])
            kept = Scalars(scalars.round, scalars.probes[:few], scalars.projections)
            values = algorithm.summand(ClientScalars(work.seed, examples, kept, tier), roster.bounds, work.done)
            return encoded(values, limits, place.weights[place.number], sum(place.weights))

        return self.hold(work, examples, summand)

    def hold(self, work: Work, examples: int, give: Callable[[RosterPlace], NDArray[np.uint64]]) -> Keys:
        """As `begin`, of what follows from who takes part.

        Args:
            work: As there.
            examples: As there.
            give: Says what the device adds to the sum, modulo 2^64; called once at most.
        """
        question = asked(self._offer, work.version, self._weights, work.seed, work.done, work.rate_factor)
        device = MaskingDevice(self._run_id, work.round, self._client, examples, question, self._identity, self._random)
        self._open = _Open(work, give, device)
        return Keys(work.round, device.keys.hex())

    def answer(self, ask: MaskingAsk) -> MaskingStep:
        """What the coordinator is to have in a stage.

        Args:
            ask: What it asks for.

        Raises:
            BegunAnew: There is nothing to give.
            Dishonest: It would learn more than a sum.
            ValueError: What this device has to give does not fit a sum.
        """
        held = self._open
        if held is None or held.work.round != ask.round:
            raise BegunAnew(f"this device has begun anew since keys were advertised for round {ask.round}")
        device = held.device
        match ask.stage:
            case Stage.SHARES:
                roster = Roster(self._run_id, ask.round, ask.members, ask.bounds)
                body = device.shares(roster)
                held.place = self._place(roster)
            case Stage.MASKED:
                device.receive(ask.present, ask.body)
                body = device.masked(self._summand(held))
            case Stage.SIGNED:
                body = device.signature(ask.present)
            case _:
                body = device.revealed(ask.present, ask.body)
        return MaskingStep(ask.round, ask.stage, body)

    def _place(self, roster: Roster) -> RosterPlace:
        weights = whole_weights(counted([member.examples for member in roster.members], self._weighting))
        number = [member.client for member in roster.members].index(self._client)
        return RosterPlace(roster, tuple(weights), number)

    def _summand(self, held: _Open) -> NDArray[np.uint64]:
        """What this device adds to the sum; the same where it is asked again."""
        if held.place is None:
            raise BegunAnew("there is no roster yet")
        if held.given is None:
            held.given = held.give(held.place)
        return held.given
