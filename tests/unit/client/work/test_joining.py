"""Which tier a device takes."""

import pytest

from zowarmup.client.work.joining import Needs, TierDecision, decide_tier
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.memory import Memory

MB = 1_000_000
NEEDS = Needs(high=700 * MB, low=170 * MB)


@pytest.mark.parametrize(
    ("megabytes", "torch", "tier", "because"),
    [
        (8000, True, Tier.HIGH, "training needs 700 MB, this device has 8 GB"),
        (700, True, Tier.HIGH, "torch is installed"),
        (8000, False, Tier.LOW, "torch is not installed"),
        (699, True, Tier.LOW, "training needs 700 MB and this device has 699 MB (somewhere)"),
        (699, False, Tier.LOW, "training needs 700 MB"),
        (170, False, Tier.LOW, "training needs 700 MB"),
        (169, True, None, "even forward passes need 170 MB and this device has 169 MB"),
        (0, False, None, "even forward passes"),
    ],
)
def test_the_highest_tier_that_fits_and_why(megabytes: int, torch: bool, tier: Tier | None, because: str) -> None:
    decision = decide_tier(Memory(megabytes * MB, "somewhere"), NEEDS, torch)
    assert decision.tier is tier
    assert because in decision.reason


def test_needs_that_were_not_measured_hold_nobody_back() -> None:
    decision = decide_tier(Memory(1, "somewhere"), Needs(0, 0), True)
    assert isinstance(decision, TierDecision)
    assert decision.tier is Tier.HIGH
