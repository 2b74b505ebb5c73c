"""The tier that this device can carry.

The coordinator measured, on the run's own model, the peak resident memory of one round of each tier's work. A device
that has as much, control-group limits included, and has torch installed takes the high tier; torch is only looked
for, never imported, since importing it costs more memory than a low-tier client uses in all.
"""

import importlib.util
from dataclasses import dataclass

from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.memory import Memory
from zowarmup.common.text import amount


@dataclass(frozen=True, slots=True)
class Needs:
    """Peak resident bytes of one round of each tier's work, as the coordinator measured them; 0: not measured."""

    high: int
    low: int


@dataclass(frozen=True, slots=True)
class TierDecision:
    """`tier` is None where the device can carry neither. `reason` is a sentence part for people."""

    tier: Tier | None
    reason: str


def decide_tier(memory: Memory, needs: Needs, has_torch: bool) -> TierDecision:
    """The highest tier that this device can carry, and why."""
    has = f"{amount(memory.bytes)} ({memory.source})"
    if memory.bytes < needs.low:
        return TierDecision(None, f"even forward passes need {amount(needs.low)} and this device has {has}")
    if memory.bytes < needs.high:
        return TierDecision(Tier.LOW, f"training needs {amount(needs.high)} and this device has {has}")
    if not has_torch:
        return TierDecision(Tier.LOW, f"torch is not installed; memory would do: {has}")
    return TierDecision(
        Tier.HIGH, f"training needs {amount(needs.high)}, this device has {has}, and torch is installed"
    )


def torchless(tier: Tier, *phases: Rounds) -> str:
    """Why a device without torch cannot be of that tier in a run, and the remedy; empty where it can."""
    both = [phase.method for phase in phases if phase.back_propagates(Tier.LOW)]
    if tier is Tier.HIGH:
        other = "" if both else ", or use --tier low"
        return f"the high tier needs torch, which is not installed: pip install 'zowarmup[torch]'{other}"
    if not both:
        return ""
    return (
        f'with method = "{both[0]}" the low tier trains too, which needs torch, and it is not installed: '
        "pip install 'zowarmup[torch]', or have the run use another method"
    )


def has_torch() -> bool:
    """Whether torch could be imported, found out without importing it."""
    return importlib.util.find_spec("torch") is not None
