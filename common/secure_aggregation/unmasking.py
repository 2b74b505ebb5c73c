"""The coordinator's part: the sum, from masked vectors and what the survivors have revealed.

A function of the messages alone, so a restart, or a check of the ledger, finds the same sum.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.secure_aggregation import shamir
from zowarmup.common.secure_aggregation.device import mask_key, own_mask, pair_mask
from zowarmup.common.secure_aggregation.primitives import public_key
from zowarmup.common.secure_aggregation.roster import Roster


def unmasked(
    roster: Roster, present: Sequence[int], masked: Mapping[int, bytes], revealed: Mapping[int, bytes]
) -> NDArray[np.uint64]:
    """The sum of what the survivors gave, modulo 2^64.

    Args:
        roster: Of the round.
        present: The places of those who sent shares, in ascending order.
        masked: The survivors' masked vectors, all of one length, by place.
        revealed: The shares that at least `roster.threshold` of them have revealed, by place.

    Returns:
        (n,).

    Raises:
        ValueError: The shares do not give the seeds back: a device revealed something else; the sentence names whose.
    """
    helpers = dict(islice(sorted(revealed.items()), roster.threshold))
    if len(helpers) < roster.threshold:
        raise ValueError(f"{len(helpers)} members have revealed shares, {roster.threshold} must")
    weights = shamir.weights_at_0([place + 1 for place in helpers])
    vectors = {place: np.frombuffer(text, "<u8").astype(np.uint64) for place, text in masked.items()}
    total = np.zeros(len(next(iter(masked.values()))) // 8, np.uint64)
    for vector in vectors.values():
        total += vector
    for number, place in enumerate(present):
        start = shamir.SHARE_BYTES * number
        shares = {helper + 1: text[start : start + shamir.SHARE_BYTES] for helper, text in helpers.items()}
        name = roster.members[place].client
        try:
            seed = shamir.recovered(shares, weights)
        except ValueError as error:
            raise ValueError(f"the shares of {name}'s seed do not give it back: {error}") from None
        if place in vectors:
            total -= own_mask(seed, total.size)
        else:
            key = mask_key(seed)
            if public_key(key) != roster.members[place].mask_key:
                raise ValueError(f"the shares of {name}'s mask key do not give it back")
            for survivor in vectors:
                # What the survivor has added for it is the negative of what it would have added for the survivor.
                total += pair_mask(roster, key, place, survivor, total.size)
    return total
