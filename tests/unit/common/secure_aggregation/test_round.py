"""Whole rounds of secure aggregation, with every device and the coordinator in memory."""

import random as pseudo
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zowarmup.common.secure_aggregation.device import SEALED_BYTES, Dishonest, MaskingDevice, shares_for
from zowarmup.common.secure_aggregation.primitives import signed, verification_key
from zowarmup.common.secure_aggregation.roster import ASKED_BYTES, Roster, RosterMember, Stage, asked
from zowarmup.common.secure_aggregation.unmasking import unmasked

RUN, ROUND, VALUES = "run-1", 7, 5
ASKED = bytes(ASKED_BYTES)


def masked(device: MaskingDevice, present: Sequence[int], shares: bytes, values: NDArray[np.uint64]) -> bytes:
    """What a device gives once it has taken the others' shares."""
    device.receive(present, shares)
    return device.masked(values)


@dataclass
class Fleet:
    """Devices in a round; `lost[stage]`: who are gone when it begins; `asked`: what some were asked and the others were not."""

    count: int
    lost: Mapping[Stage, set[int]] = field(default_factory=dict)
    random: Callable[[int], bytes] = secrets.token_bytes
    asked: Mapping[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identities = [self.random(32) for _ in range(self.count)]
        self.values = [np.frombuffer(self.random(8 * VALUES), "<u8") for _ in range(self.count)]
        self.devices = [
            MaskingDevice(RUN, ROUND, f"pi-{place:03}", place + 1, self.asked.get(place, ASKED), identity, self.random)
            for place, identity in enumerate(self.identities)
        ]
        self.heard: dict[Stage, dict[int, bytes]] = {}

    @property
    def roster(self) -> Roster:
        return Roster(
            RUN,
            ROUND,
            tuple(
                RosterMember(f"pi-{place:03}", place + 1, verification_key(self.identities[place]), device.keys)
                for place, device in enumerate(self.devices)
            ),
        )

    def there(self, stage: Stage) -> list[int]:
        stages = list(Stage)
        gone = set[int]().union(*(self.lost.get(earlier, set()) for earlier in stages[: stages.index(stage) + 1]))
        return [place for place in range(self.count) if place not in gone]

    def upto(self, stage: Stage) -> None:
        """Carry the round to the end of a stage."""
        roster, devices, heard = self.roster, self.devices, self.heard
        heard[Stage.SHARES] = {place: devices[place].shares(roster) for place in self.there(Stage.SHARES)}
        if stage is Stage.SHARES:
            return
        present = list(heard[Stage.SHARES])
        heard[Stage.MASKED] = {
            place: masked(devices[place], present, shares_for(place, heard[Stage.SHARES]), self.values[place])
            for place in self.there(Stage.MASKED)
        }
        if stage is Stage.MASKED:
            return
        survivors = list(heard[Stage.MASKED])
        heard[Stage.SIGNED] = {place: devices[place].signature(survivors) for place in self.there(Stage.SIGNED)}
        if stage is Stage.SIGNED:
            return
        signers, signatures = list(heard[Stage.SIGNED]), b"".join(heard[Stage.SIGNED].values())
        heard[Stage.REVEALED] = {
            place: devices[place].revealed(signers, signatures) for place in self.there(Stage.REVEALED)
        }

    def total(self) -> NDArray[np.uint64]:
        self.upto(Stage.REVEALED)
        heard = self.heard
        return unmasked(self.roster, list(heard[Stage.SHARES]), heard[Stage.MASKED], heard[Stage.REVEALED])


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 12), st.lists(st.sampled_from(list(Stage)[1:]), max_size=4), st.integers(0, 2**32))
def test_whoever_drops_out_at_whichever_stage_the_sum_is_that_of_the_survivors(
    count: int, stages: list[Stage], seed: int
) -> None:
    draws = pseudo.Random(seed)
    allowed = count - (2 * count // 3 + 1)
    lost: dict[Stage, set[int]] = {}
    for stage, place in zip(stages[:allowed], draws.sample(range(count), count), strict=False):
        lost.setdefault(stage, set()).add(place)
    fleet = Fleet(count, lost, draws.randbytes)
    exact = [sum(int(fleet.values[place][n]) for place in fleet.there(Stage.MASKED)) % 2**64 for n in range(VALUES)]
    assert fleet.total().tolist() == exact


def test_a_masked_vector_says_nothing_without_what_is_revealed() -> None:
    """The same values under other keys have another form, whose bytes look evenly spread."""
    fleet = Fleet(5)
    fleet.values = [np.zeros(4096, np.uint64) for _ in fleet.values]
    fleet.upto(Stage.MASKED)
    for text in fleet.heard[Stage.MASKED].values():
        spread = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
        assert spread.min() > 60 and spread.max() < 210  # 128 each, and a standard deviation of 11
    ones = np.unpackbits(np.frombuffer(b"".join(fleet.heard[Stage.MASKED].values()), np.uint8)).mean()
    assert abs(ones - 0.5) < 0.005


@pytest.mark.parametrize(
    ("stage", "left"), [(Stage.MASKED, "sent shares"), (Stage.SIGNED, "given a masked"), (Stage.REVEALED, "signed")]
)
def test_below_the_threshold_devices_go_no_further(stage: Stage, left: str) -> None:
    before = list(Stage)[list(Stage).index(stage) - 1]
    fleet = Fleet(9, {before: {0, 1, 2}})  # 7 of 9 must stay
    with pytest.raises(Dishonest, match=f"6 members are said to have {left}.*7 of 9 must"):
        fleet.upto(stage)


def test_two_rosters_are_found_out_before_anything_is_revealed() -> None:
    """Half of the fleet is shown a member of the coordinator's own in the place of one device."""
    fleet = Fleet(9)
    other = MaskingDevice(RUN, ROUND, "pi-008", 9, ASKED, bytes(range(32)), secrets.token_bytes)
    invented = RosterMember("pi-008", 9, verification_key(bytes(range(32))), other.keys)
    lying = Roster(RUN, ROUND, (*fleet.roster.members[:8], invented))
    roster, everyone, true = fleet.roster, list(range(9)), list(range(8))
    sealed = {p: fleet.devices[p].shares(lying if p < 4 else roster) for p in everyone}
    for_lied = {**sealed, 8: other.shares(lying)}
    for p in true:
        # What the two halves have sealed for each other opens: only the keys of the last member differ.
        masked(fleet.devices[p], everyone, shares_for(p, for_lied if p < 4 else sealed), fleet.values[p])
    signatures = b"".join([fleet.devices[p].signature(true) for p in true])
    for p in true:
        with pytest.raises(Dishonest, match="has signed another roster"):
            fleet.devices[p].revealed(true, signatures)


def test_both_kinds_of_shares_of_one_device_are_never_given() -> None:
    fleet = Fleet(6)
    fleet.upto(Stage.SIGNED)
    everyone = list(range(6))
    with pytest.raises(Dishonest, match="two different sets of survivors"):
        fleet.devices[1].signature([1, 2, 3, 4, 5])
    signatures = b"".join(fleet.heard[Stage.SIGNED].values())
    first = fleet.devices[1].revealed(everyone, signatures)
    assert fleet.devices[1].revealed(everyone, signatures) == first
    # Signatures of other survivors do not open anything, whoever made them.
    elsewhere = fleet.roster.statement([1, 2, 3, 4, 5])
    forged = b"".join(signed(fleet.identities[place], elsewhere) for place in everyone)
    with pytest.raises(Dishonest, match="other survivors than this device was shown"):
        fleet.devices[1].revealed(everyone, forged)


@pytest.mark.parametrize("part", range(6))
def test_a_member_that_was_asked_something_else_is_in_no_roster(part: int) -> None:
    """Of weights of which all is known, say, what it gives could be taken off the sum."""
    question: list[Any] = [bytes(32), 3, bytes(32), 5, 7, 1.0]
    same = asked(*question)
    question[part] = {0: b"another", 2: b"another", 5: 0.5}.get(part, 9)
    fleet = Fleet(5, asked=dict.fromkeys(range(4), same) | {4: asked(*question)})
    for device in fleet.devices[:4]:
        with pytest.raises(Dishonest, match="pi-004 was asked something else than this device"):
            device.shares(fleet.roster)


def test_bounds_that_differ_are_found_out_before_anything_is_revealed() -> None:
    """With bounds so wide that what is within them is less than a unit, all others would add nothing to one device's values."""
    fleet, everyone = Fleet(5), list(range(5))
    shown = [replace(fleet.roster, bounds=(2.0**60, 2.0**60) if place else (1.0, 1.0)) for place in everyone]
    sealed = {place: device.shares(shown[place]) for place, device in enumerate(fleet.devices)}
    with pytest.raises(Dishonest, match="two different rosters"):
        fleet.devices[0].shares(shown[1])
    for place, device in enumerate(fleet.devices):
        masked(device, everyone, shares_for(place, sealed), fleet.values[place])
    signatures = b"".join(device.signature(everyone) for device in fleet.devices)
    for device in fleet.devices:
        with pytest.raises(Dishonest, match="has signed another roster"):
            device.revealed(everyone, signatures)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=20), st.randoms())
def test_of_the_values_that_are_shared_three_are_left_whoever_drops_out(
    counts: list[int], chance: pseudo.Random
) -> None:
    roster = Roster(RUN, ROUND, tuple(RosterMember(f"pi-{n:02}", 1, b"", b"") for n in range(len(counts))))
    few = roster.shared(counts)
    lost = chance.sample(range(len(counts)), len(counts) - roster.threshold)
    assert sum(count >= few for place, count in enumerate(counts) if place not in lost) >= 3
    most = sorted(counts)[: roster.threshold]  # those with most drop out
    assert few == max(count for count in most if sum(other >= count for other in most) >= 3)


def changed(roster: Roster, **field: object) -> Roster:
    return replace(roster, members=(replace(roster.members[0], **field), *roster.members[1:]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (lambda r: Roster(RUN, ROUND + 1, r.members), "another round"),
        (lambda r: Roster(RUN, ROUND, r.members[2:4]), "fewer than 3"),
        (lambda r: Roster(RUN, ROUND, r.members[:3]), "does not have this device as it is"),
        (lambda r: Roster(RUN, ROUND, r.members[::-1]), "ascending order"),
        (lambda r: changed(r, examples=99), "pi-000 are not signed by its identity"),
        (lambda r: changed(r, keys=r.members[1].keys), "have one mask key"),
        (
            lambda r: changed(r, keys=r.members[0].keys[:-1] + bytes([r.members[0].keys[-1] ^ 1])),
            "pi-000 are not signed",
        ),
        (lambda r: changed(r, identity=r.members[1].identity), "have one identity"),
        (lambda r: changed(r, keys=b""), "pi-000 are not signed"),
        (
            lambda r: changed(r, keys=r.members[0].keys[:64] + bytes([1]) + r.members[0].keys[65:]),
            "pi-000 are not signed",
        ),
    ],
)
def test_a_roster_that_cannot_be_is_refused(lie: Callable[[Roster], Roster], sentence: str) -> None:
    fleet = Fleet(5)
    with pytest.raises(Dishonest, match=sentence):
        fleet.devices[3].shares(lie(fleet.roster))


def test_a_second_roster_for_one_round_is_refused_and_the_same_answered_again() -> None:
    fleet = Fleet(5)
    sent = fleet.devices[0].shares(fleet.roster)
    assert fleet.devices[0].shares(fleet.roster) == sent and len(sent) == 4 * SEALED_BYTES
    with pytest.raises(Dishonest, match="two different rosters"):
        fleet.devices[0].shares(Fleet(5).roster)


def test_stages_out_of_order_and_shares_from_elsewhere_are_refused() -> None:
    fleet = Fleet(4)
    with pytest.raises(Dishonest, match="no roster"):
        masked(fleet.devices[0], [0, 1, 2, 3], b"", fleet.values[0])
    fleet.upto(Stage.SHARES)
    sealed = fleet.heard[Stage.SHARES]
    with pytest.raises(Dishonest, match="no masked vector"):
        fleet.devices[0].signature([0, 1, 2, 3])
    swapped = shares_for(0, {0: sealed[1], 1: sealed[0], 2: sealed[2], 3: sealed[3]})
    with pytest.raises(Dishonest, match="was not sealed by it"):
        masked(fleet.devices[0], [0, 1, 2, 3], swapped, fleet.values[0])
    masked(fleet.devices[1], [0, 1, 2, 3], shares_for(1, sealed), fleet.values[1])
    with pytest.raises(Dishonest, match="two different sets"):
        masked(fleet.devices[1], [1, 2, 3], shares_for(1, sealed), fleet.values[1])
    with pytest.raises(Dishonest, match="no set of survivors"):
        fleet.devices[1].revealed([0, 1, 2, 3], b"")


def test_a_device_that_reveals_something_else_spoils_the_round_and_is_no_silent_error() -> None:
    fleet = Fleet(6, {Stage.MASKED: {2}})
    fleet.upto(Stage.REVEALED)
    heard = fleet.heard
    heard[Stage.REVEALED][0] = bytes(len(heard[Stage.REVEALED][0]))
    with pytest.raises(ValueError, match="give it back"):
        unmasked(fleet.roster, list(heard[Stage.SHARES]), heard[Stage.MASKED], heard[Stage.REVEALED])
    some = dict(list(heard[Stage.REVEALED].items())[1:])
    with pytest.raises(ValueError, match="4 members have revealed shares, 5 must"):
        unmasked(fleet.roster, list(heard[Stage.SHARES]), heard[Stage.MASKED], some)
