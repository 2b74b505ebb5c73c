"""A device's part of a round with secure aggregation.

After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), with the consistency
check against a coordinator that lies. What a device gives is hidden by masks that it shares with each other device, which
cancel in the sum, and by one of its own. For those who drop out the coordinator needs the pairwise masks, for those who stay the
own one: shares of the seeds of both are with all members. A device reveals a share of one kind for each member, once, and only
after more than two thirds of all have signed who dropped out; so nobody gets both kinds of one device.

Keys are new in every round: what is revealed of one says nothing of another, and a device keeps nothing from round to round but
its identity. Pure: randomness is handed in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.secure_aggregation import shamir
from zowarmup.common.secure_aggregation.primitives import (
    SIGNATURE_BYTES,
    TAG_BYTES,
    agreed,
    derived,
    is_signed,
    mask,
    opened,
    private_key,
    public_key,
    sealed,
    signed,
    verification_key,
)
from zowarmup.common.secure_aggregation.roster import FEWEST, Roster, advertised, purpose

if TYPE_CHECKING:
    from zowarmup.common.secure_aggregation.primitives import PrivateKey

SEALED_BYTES = 2 * shamir.SHARE_BYTES + TAG_BYTES
"""Of what a device has for another: a share of its own mask's seed, one of its mask key's, sealed."""


class Dishonest(ValueError):
    """What the coordinator asks would reveal more than a sum, or does not agree with what it said before."""


class MaskingDevice:
    """One device in one round. A stage that is asked again is answered the same; asked differently it is refused.

    Args:
        run_id: Of the run.
        round: Its number.
        client: The device's name in the run.
        examples: How many it claims to hold.
        asked: The hash of what it was asked (`roster.asked`).
        identity: Its private Ed25519 key.
        random: Gives so many random bytes, which nobody else may know.
    """

    def __init__(
        self,
        run_id: str,
        round: int,
        client: str,
        examples: int,
        asked: bytes,
        identity: bytes,
        random: Callable[[int], bytes],
    ) -> None:
        self._run_id, self._round, self._client, self._asked = run_id, round, client, asked
        self._identity, self._random = identity, random
        self._mask_seed, self._own_seed = random(shamir.SECRET_BYTES), random(shamir.SECRET_BYTES)
        self._mask_key, self._share_key = mask_key(self._mask_seed), private_key(random(32))
        keys = public_key(self._mask_key) + public_key(self._share_key) + asked
        self.keys = keys + signed(identity, advertised(run_id, round, client, examples, keys))
        self._roster: Roster | None = None
        self._place = -1
        self._sealed = b""
        self._present: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._secrets: dict[int, bytes] = {}
        self._masked = self._signature = self._revealed = b""

    def shares(self, roster: Roster) -> bytes:
        """The sealed shares for the other members, in their order.

        Args:
            roster: As the coordinator shows it.

        Raises:
            Dishonest: It is not one that this device would be in.
        """
        if self._roster is not None:
            if roster != self._roster:
                raise Dishonest("the coordinator shows two different rosters for one round")
            return self._sealed
        self._check(roster)
        self._place = [member.client for member in roster.members].index(self._client)
        count, threshold = len(roster.members), roster.threshold
        own = shamir.shares(self._own_seed, threshold, count, self._random)
        key = shamir.shares(self._mask_seed, threshold, count, self._random)
        self._held[self._place] = own[self._place], key[self._place]
        self._roster = roster
        self._sealed = b"".join(
            sealed(self._share_key_for(other, outgoing=True), own[other] + key[other])
            for other in range(count)
            if other != self._place
        )
        return self._sealed

    def receive(self, present: Sequence[int], shares: bytes) -> None:
        """Take the others' shares. It is apart from `masked`, and before it, since what a device then adds to the sum is a release where
        devices share noise: it is counted, and not taken back where the others or the coordinator turn out to lie.

        Args:
            present: The places of the members that have sent shares, in ascending order.
            shares: What these, but for this device, have sealed for it, in their order.

        Raises:
            Dishonest: Too few are there, this device is not among them, or what is said to come from one does not, or one's key is none.
        """
        roster = self._known()
        if self._present:
            if tuple(present) != self._present:
                raise Dishonest("the coordinator names two different sets of members that have sent shares")
            return
        self._check_places(present, range(len(roster.members)), "sent shares")
        others = [place for place in present if place != self._place]
        if len(shares) != SEALED_BYTES * len(others):
            raise Dishonest(f"{len(shares)} bytes of shares: {len(others)} members have {SEALED_BYTES} each")
        for number, other in enumerate(others):
            try:
                both = opened(self._share_key_for(other), shares[SEALED_BYTES * number : SEALED_BYTES * (number + 1)])
            except ValueError:
                name = roster.members[other].client
                raise Dishonest(f"what is said to be {name}'s share for this device was not sealed by it") from None
            self._held[other] = both[: shamir.SHARE_BYTES], both[shamir.SHARE_BYTES :]
            pair_mask(roster, self._mask_key, self._place, other, 0)  # its key is one
        self._present = tuple(present)

    def masked(self, values: NDArray[np.uint64]) -> bytes:
        """The values under all masks, little-endian; the first ones, where it is asked again.

        Args:
            values: What this device adds to the sum, modulo 2^64, (n,).

        Raises:
            Dishonest: No shares have been received.
        """
        roster = self._known()
        if not self._present:
            raise Dishonest("this device has received no shares")
        if not self._masked:
            hidden = values + own_mask(self._own_seed, values.size)
            for other in self._present:
                if other != self._place:
                    hidden += pair_mask(roster, self._mask_key, self._place, other, values.size)
            self._masked = hidden.astype("<u8").tobytes()
        return self._masked

    def signature(self, survivors: Sequence[int]) -> bytes:
        """The signature of the roster and of who has given a masked vector.

        Args:
            survivors: Their places, in ascending order.

        Raises:
            Dishonest: Too few are there, or this device is not, or they are not among those who sent shares; or others
                were named before.
        """
        roster = self._known()
        if not self._masked:
            raise Dishonest("this device has given no masked vector")
        if self._signature:
            if tuple(survivors) != self._survivors:
                raise Dishonest(
                    "the coordinator names two different sets of survivors, which would reveal a device's scalars"
                )
            return self._signature
        self._check_places(survivors, self._present, "given a masked vector")
        self._survivors = tuple(survivors)
        self._signature = signed(self._identity, roster.statement(survivors))
        return self._signature

    def revealed(self, signers: Sequence[int], signatures: bytes) -> bytes:
        """For each member that has sent shares, in order, a share: of a survivor its own mask's seed, of the others their mask
        key's.

        Args:
            signers: The places of those who have signed, in ascending order.
            signatures: Theirs, in their order.

        Raises:
            Dishonest: Too few have signed, or one of them something else than this device.
        """
        roster = self._known()
        if not self._signature:
            raise Dishonest("this device has signed no set of survivors")
        self._check_places(signers, self._survivors, "signed")
        if len(signatures) != SIGNATURE_BYTES * len(signers):
            raise Dishonest(f"{len(signatures)} bytes of signatures: {len(signers)} have {SIGNATURE_BYTES} each")
        statement = roster.statement(self._survivors)
        for number, place in enumerate(signers):
            signature = signatures[SIGNATURE_BYTES * number : SIGNATURE_BYTES * (number + 1)]
            if not is_signed(roster.members[place].identity, statement, signature):
                raise Dishonest(
                    f"{roster.members[place].client} has signed another roster or other survivors than this device was shown"
                )
        return b"".join(self._held[place][place not in self._survivors] for place in self._present)

    def _known(self) -> Roster:
        if self._roster is None:
            raise Dishonest("this device has been shown no roster for this round")
        return self._roster

    def _check(self, roster: Roster) -> None:
        members = roster.members
        if (roster.run_id, roster.round) != (self._run_id, self._round):
            raise Dishonest("the roster is of another round")
        if len(members) < FEWEST:
            raise Dishonest(f"the roster has {len(members)} members, and with fewer than {FEWEST} a sum hides nothing")
        names = [member.client for member in members]
        if names != sorted(set(names)):
            raise Dishonest("the roster is not in ascending order of clients, each once")
        for what in ("identity", "mask_key", "share_key"):
            if len({getattr(member, what) for member in members}) < len(members):
                raise Dishonest(f"two members of the roster have one {what.replace('_', ' ')}")
        own = next((member for member in members if member.client == self._client), None)
        if own is None or own.keys != self.keys or own.identity != verification_key(self._identity):
            raise Dishonest("the roster does not have this device as it is")
        for member in members:
            if not member.is_signed(self._run_id, self._round):
                raise Dishonest(f"the keys that the roster has for {member.client} are not signed by its identity")
            if member.asked != self._asked:
                raise Dishonest(
                    f"{member.client} was asked something else than this device: of other weights, along other directions or "
                    "in another run"
                )

    def _check_places(self, given: Sequence[int], allowed: Sequence[int], what: str) -> None:
        roster = self._known()
        if list(given) != sorted(set(given)) or not set(given) <= set(allowed):
            raise Dishonest(f"those who are said to have {what} are not among those who could")
        if self._place not in given:
            raise Dishonest(f"this device is not among those who are said to have {what}, and it has")
        if len(given) < roster.threshold:
            raise Dishonest(
                f"{len(given)} members are said to have {what}; {roster.threshold} of {len(roster.members)} must"
            )

    def _share_key_for(self, other: int, outgoing: bool = False) -> bytes:
        """The key of what goes from one member to another."""
        roster = self._known()
        way = (self._place, other) if outgoing else (other, self._place)
        if (secret := self._secrets.get(other)) is None:
            try:
                secret = self._secrets[other] = agreed(self._share_key, roster.members[other].share_key)
            except ValueError:
                raise Dishonest(f"the share key of {roster.members[other].client} is none") from None
        return derived(secret, purpose("share", self._run_id, self._round, *way))


def mask_key(seed: bytes) -> "PrivateKey":
    """The private mask key of a seed, which is what is shared of it."""
    return private_key(derived(seed, b"zowarmup mask key"))


def own_mask(seed: bytes, count: int) -> NDArray[np.uint64]:
    """The mask that a device adds for itself, modulo 2^64, (count,)."""
    return mask(derived(seed, b"zowarmup own mask"), count)


def pair_mask(roster: Roster, key: "PrivateKey", place: int, other: int, count: int) -> NDArray[np.uint64]:
    """What the member at a place adds for another, modulo 2^64, (count,): the two cancel.

    Args:
        roster: Of the round.
        key: The mask key of the member at `place`.
        place: Where it stands in the roster.
        other: Where the other one does.
        count: How many values there are.

    Raises:
        Dishonest: The other's mask key is none.
    """
    pair = purpose("pair mask", roster.run_id, roster.round, min(place, other), max(place, other))
    try:
        found = mask(derived(agreed(key, roster.members[other].mask_key), pair), count)
    except ValueError:
        raise Dishonest(f"the mask key of {roster.members[other].client} is none") from None
    return found if place < other else np.negative(found)


def shares_for(place: int, sealed_by: Mapping[int, bytes]) -> bytes:
    """What members have sealed for one of them, in their order: what the coordinator passes on.

    Args:
        place: Of the one that it is for.
        sealed_by: What each has sent (`MaskingDevice.shares`), by its place, in ascending order.
    """
    parts = []
    for sender, sent in sealed_by.items():
        if sender != place:
            number = place - (place > sender)
            parts.append(sent[SEALED_BYTES * number : SEALED_BYTES * (number + 1)])
    return b"".join(parts)
