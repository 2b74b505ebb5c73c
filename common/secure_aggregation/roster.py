"""Who takes part in a round with secure aggregation, and what is signed about it.

The same roster is shown to everybody. Each device checks the keys in it, and that all were asked the same, and signs its hash
together with who has given a masked vector; none reveals anything before it has seen that the others have signed the very same.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from zowarmup.common.secure_aggregation.primitives import KEY_BYTES, SIGNATURE_BYTES, is_signed

FEWEST = 3
"""Of two, each would know from the sum what the other gave."""
ASKED_BYTES = 32
KEYS_BYTES = 2 * KEY_BYTES + ASKED_BYTES + SIGNATURE_BYTES
"""Of what a device advertises: its mask key, its share key, the hash of what it was asked, and its identity's signature of these."""


class Stage(StrEnum):
    """What the devices of a round send, in this order."""

    KEYS = "keys"
    SHARES = "shares"
    MASKED = "masked"
    SIGNED = "signed"
    REVEALED = "revealed"

    @property
    def following(self) -> "Stage | None":
        """The stage after this one, None after the last."""
        stages = list(Stage)
        place = stages.index(self) + 1
        return stages[place] if place < len(stages) else None


@dataclass(frozen=True, slots=True)
class RosterMember:
    """A device in a round.

    Args:
        client: Its name in the run.
        examples: How many it claims to hold.
        identity: Its public Ed25519 key, as it enrolled with it.
        keys: What it advertised, KEYS_BYTES.
    """

    client: str
    examples: int
    identity: bytes
    keys: bytes

    @property
    def mask_key(self) -> bytes:
        """The public key by which pairs agree on their masks."""
        return self.keys[:KEY_BYTES]

    @property
    def share_key(self) -> bytes:
        """The public key by which shares are sealed."""
        return self.keys[KEY_BYTES : 2 * KEY_BYTES]

    @property
    def asked(self) -> bytes:
        """The hash of what it was asked (`asked`)."""
        return self.keys[2 * KEY_BYTES : 2 * KEY_BYTES + ASKED_BYTES]

    def is_signed(self, run_id: str, round: int) -> bool:
        """Whether its identity has signed these keys for this round, what it was asked and what it claims to hold."""
        message = advertised(run_id, round, self.client, self.examples, self.keys[:-SIGNATURE_BYTES])
        return len(self.keys) == KEYS_BYTES and is_signed(self.identity, message, self.keys[-SIGNATURE_BYTES:])


@dataclass(frozen=True, slots=True)
class Roster:
    """All who have advertised keys for a round.

    Args:
        run_id: Of the run.
        round: Its number.
        members: In ascending order of client; share x is for member x - 1.
        bounds: To which they clip what they add to the sum.
    """

    run_id: str
    round: int
    members: tuple[RosterMember, ...]
    bounds: tuple[float, ...] = ()

    @property
    def threshold(self) -> int:
        """t: how many must remain in every stage."""
        return threshold_of(len(self.members))

    @property
    def sha256(self) -> bytes:
        """Its hash: of each field its length as 4 bytes, little-endian, and then itself."""
        fields = [b"zowarmup roster", self.run_id.encode(), _number(self.round), _floats(self.bounds)]
        for member in self.members:
            fields += [member.client.encode(), _number(member.examples), member.identity, member.keys]
        return hashlib.sha256(_framed(fields)).digest()

    def shared(self, counts: Sequence[int]) -> int:
        """How many of their first values so many members have that, whoever drops out, FEWEST at least are in the sum of each. A
        sum of what one alone has would be what it has.

        Args:
            counts: How many values each member has, of which the first are of what others' first are.
        """
        lost = len(self.members) - self.threshold
        return sorted(counts, reverse=True)[lost + FEWEST - 1]

    def statement(self, survivors: Sequence[int]) -> bytes:
        """What each survivor signs.

        Args:
            survivors: The places of those who gave a masked vector, in ascending order.
        """
        return _framed([b"zowarmup survivors", self.sha256, *map(_number, survivors)])


def threshold_of(members: int) -> int:
    """t, of so many members: more than two thirds. With fewer than 2 t - members of them in league with the coordinator, which is a
    third, no two sets of survivors can both have so many signatures."""
    return 2 * members // 3 + 1


def advertised(run_id: str, round: int, client: str, examples: int, keys: bytes) -> bytes:
    """What an identity signs to advertise keys.

    Args:
        run_id: Of the run.
        round: That they are for.
        client: Whose they are.
        examples: How many it claims to hold.
        keys: The mask key, the share key and the hash of what it was asked.
    """
    return _framed([b"zowarmup keys", run_id.encode(), _number(round), client.encode(), _number(examples), keys])


def asked(offer: bytes, version: int, weights: bytes, seed: int, done: int, rate_factor: float) -> bytes:
    """The hash of all that what a device measures follows from, but for its data. With those who were asked something else than
    the others, about weights of which all is known for instance, a sum would be that of the others (Pasquini, Francati, Ateniese,
    "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022).

    Args:
        offer: SHA-256 of what the run was said to be.
        version: The model's.
        weights: SHA-256 of its weights.
        seed: That the directions follow from.
        done: As `Work.done` says.
        rate_factor: As `Work.rate_factor` says.

    Returns:
        ASKED_BYTES, SHA-256 of the fields, each with its length before it.
    """
    numbers = map(_number, (version, seed, done))
    return hashlib.sha256(_framed([b"zowarmup asked", offer, weights, *numbers, _floats([rate_factor])])).digest()


def purpose(name: str, run_id: str, round: int, *places: int) -> bytes:
    """What a key is for: of one round, and of one or two members."""
    return _framed([f"zowarmup {name}".encode(), run_id.encode(), _number(round), *map(_number, places)])


def _number(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _floats(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def _framed(fields: Sequence[bytes]) -> bytes:
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)
