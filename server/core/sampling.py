"""Sampling of a round's participants and seeds.

Both are functions of a key and the round alone, participants over the eligible clients in an order that follows from who they are: the same on every
machine and whatever order clients arrived in. The key is a secret of the run, 256 random bits which never leave the coordinator, so that nobody
else can compute a draw before it is made, or choose a name that is drawn more often. Where the run file asks for reproducible
draws, the key is its seed, and whoever knows the seed can compute every draw.
"""

import functools
import hashlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from zowarmup.server.core.sorted_names import SortedNames

SLOT_BITS = 20
FEISTEL_ROUNDS = 4
"""Enough for a strong pseudorandom permutation (Luby and Rackoff, 1988)."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one run.

    Args:
        seed: The run file's.
        secret: 64 hex digits, or empty: the draws then follow from `seed`.
    """

    seed: int
    secret: str = field(default="", repr=False)

    def order(self, round: int, eligible: Sequence[SortedNames]) -> Iterator[str]:
        """The eligible clients in an order of which each is equally likely: participants are the first. Nothing is done for those after
        the last that is asked for.

        Args:
            round: Its number.
            eligible: Groups of them that have none in common.

        Source: R. A. Fisher and F. Yates, Statistical Tables (1938), table XXXIII, as R. Durstenfeld does it in place (Algorithm 235,
            Communications of the ACM 7(7), 1964); of the places only those that have changed are kept.
        """
        left = sum(map(len, eligible))
        # A place is chosen with a probability that is wrong by less than 2^-64.
        moved: dict[int, int] = {}
        for first, number in zip(range(left), self._numbers(round), strict=False):
            chosen = first + (number * (left - first) >> 64)
            yield _at(eligible, moved.get(chosen, chosen))
            moved[chosen] = moved.pop(first, first)

    def _numbers(self, round: int) -> Iterator[int]:
        """Numbers of 64 bits: SHA-256 of the key, the round and a counter."""
        start = f"draw/{self.secret or self.seed}/{round}/"
        for counter in itertools.count():
            yield from struct.unpack(">4Q", hashlib.sha256(f"{start}{counter}".encode()).digest())

    def seeds(self, round: int, count: int) -> tuple[int, ...]:
        """`count` seeds of 64 bits, distinct from each other and from those of every other round of the run: the round,
        encrypted by the secret where there is one, and the slot are packed side by side and masked."""
        if count >= 1 << SLOT_BITS or round >= 1 << (64 - SLOT_BITS):
            raise ValueError(
                f"{count} participants in round {round} exceed 2^{SLOT_BITS} slots or 2^{64 - SLOT_BITS} rounds"
            )
        first = (_encrypted(self.secret, round) if self.secret else round) << SLOT_BITS
        mask = _hash(f"seed/{self.secret or self.seed}")
        return tuple(mask ^ (first | slot) for slot in range(count))


def _at(groups: Sequence[SortedNames], place: int) -> str:
    for names in groups:
        if place < len(names):
            return names.at(place)
        place -= len(names)
    raise IndexError(f"{place} places beyond the last name")


@functools.cache
def pool_seed(run_seed: int) -> int:
    """The stream of the directions that every round of a run shares, where its algorithm has such. Clients know it. Asked at
    each contribution."""
    return _hash(f"pool/{run_seed}")


def _encrypted(secret: str, round: int) -> int:
    """The round's number, encrypted within its bits by a Feistel network: a permutation, so no two rounds meet."""
    left, right = round >> _HALF_BITS, round & _HALF
    for number in range(FEISTEL_ROUNDS):
        left, right = right, left ^ _hash(f"round/{secret}/{number}/{right}") & _HALF
    return left << _HALF_BITS | right


_HALF_BITS = (64 - SLOT_BITS) // 2
_HALF = (1 << _HALF_BITS) - 1


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
