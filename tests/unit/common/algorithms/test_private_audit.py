"""An audit of the devices' own mechanism and noise: nobody is seen to learn more than the accountant says, and noise that is missing is noticed."""

import math
from dataclasses import replace

from benchmarks.privacy.audit import at_most, audited
from zowarmup.client.work.releasing import system_noise
from zowarmup.common.settings.privacy import Privacy

BUDGET = Privacy(mode="local", epsilon=8.0).budget(2)
TRIALS = 3000


def test_what_is_seen_stays_below_epsilon() -> None:
    """The bounds of this audit are wrong once in 50,000."""
    seen = audited(BUDGET, TRIALS, chance=1e-5)
    assert 2.0 < seen.gaussian < 8.0
    assert seen.plain < 8.0


def test_noise_that_devices_share_is_as_good_and_that_of_all_but_two_is_not() -> None:
    """Of four devices, or of two of them, for whose noise alone it was not made."""
    seen = audited(BUDGET, TRIALS, chance=1e-5, devices=4)
    assert 2.0 < seen.gaussian < 8.0
    less = replace(BUDGET, multiplier=BUDGET.multiplier / math.sqrt(2))
    assert audited(less, TRIALS, chance=1e-5, devices=2).gaussian > 8.0


def test_half_of_the_noise_is_noticed() -> None:
    assert audited(BUDGET, TRIALS, lambda count: 0.5 * system_noise(count), chance=1e-5).gaussian > 8.0


def test_the_confidence_bound() -> None:
    """Clopper and Pearson, of 3 among 100 and of none among 50: 97.5 % one-sided."""
    assert abs(at_most(3, 100) - 0.08518) < 1e-4
    assert abs(at_most(0, 50) - (1 - 0.025 ** (1 / 50))) < 1e-9
    assert at_most(50, 50) == 1.0
