"""The messages of a round with secure aggregation, as values (`common.secure_aggregation`)."""

from dataclasses import dataclass

from zowarmup.common.messages.values import Contribution
from zowarmup.common.secure_aggregation.primitives import KEY_BYTES, SIGNATURE_BYTES
from zowarmup.common.secure_aggregation.roster import ASKED_BYTES, KEYS_BYTES, RosterMember, Stage

MOST_STEP_BYTES = 62_000
"""Of what a device sends in a stage: below what a message may have."""


@dataclass(frozen=True, slots=True)
class Keys:
    """In the place of scalars, once these are computed: the keys under which a client will give them.

    Args:
        round: That they are for.
        keys: KEYS_BYTES in hex: the mask key, the share key, the hash of what the client was asked and the identity's signature
            of these.

    Raises:
        ValueError: They have another length, or are no lower-case hex digits.
    """

    round: int
    keys: str

    def __post_init__(self) -> None:
        if len(self.keys) != 2 * KEYS_BYTES or set(self.keys) - set("0123456789abcdef"):
            raise ValueError(f"keys: they must have {KEYS_BYTES} bytes")

    @property
    def asked(self) -> str:
        """The hash of what the client was asked, hex."""
        return self.keys[4 * KEY_BYTES : 4 * KEY_BYTES + 2 * ASKED_BYTES]


Given = Contribution | Keys
"""What a client contributes to a round."""


@dataclass(frozen=True, slots=True)
class MaskingStep:
    """What a client sends in a later stage.

    Args:
        round: Its number.
        stage: Any but the first.
        body: At most MOST_STEP_BYTES.

    Raises:
        ValueError: The stage is the first, or the body has too many bytes, or none.
    """

    round: int
    stage: Stage
    body: bytes

    def __post_init__(self) -> None:
        if self.stage is Stage.KEYS:
            raise ValueError("masking: keys are not sent as a step")
        if not 1 <= len(self.body) <= MOST_STEP_BYTES:
            raise ValueError(f"masking: {len(self.body)} bytes: must be 1 to {MOST_STEP_BYTES}")


@dataclass(frozen=True, slots=True)
class MaskingAsk:
    """What a client is asked for in a stage, with all that it needs to know for it.

    Args:
        round: Its number.
        stage: Any but the first.
        members: For shares: all who have advertised keys, in ascending order of client.
        bounds: For shares: to which the members clip what they add to the sum.
        present: For what follows: the places of those who have sent what the stage before asked for, in ascending order.
        body: For a masked vector: the shares that these have sealed for the client; for what is revealed: their signatures.

    Raises:
        ValueError: A field cannot be what it says.
    """

    round: int
    stage: Stage
    members: tuple[RosterMember, ...] = ()
    bounds: tuple[float, ...] = ()
    present: tuple[int, ...] = ()
    body: bytes = b""

    def __post_init__(self) -> None:
        if self.stage is Stage.KEYS or bool(self.members) != (self.stage is Stage.SHARES):
            raise ValueError(f"masking: members do not belong in the stage {self.stage}")
        if len(self.bounds) not in (0, 2) or not all(0 < bound < 2.0**64 for bound in self.bounds):
            raise ValueError(f"masking: bounds {self.bounds} must be two numbers above 0, or none")
        for member in self.members:
            if len(member.identity) != KEY_BYTES or len(member.keys) != KEYS_BYTES or member.examples < 1:
                raise ValueError("masking: a member's keys have another length, or it has no examples")
        if self.stage is Stage.REVEALED and len(self.body) != SIGNATURE_BYTES * len(self.present):
            raise ValueError(f"masking: {len(self.body)} bytes of signatures of {len(self.present)} members")
