"""The end of a warm-up that no longer helps: the decision behind `pivot = "auto"`.

The held-out loss of the last `patience` rounds is compared with that of as many before them, each as a median, so that
a round that happened to draw odd clients decides nothing. Where it has not fallen by the share `least_improvement`, the
warm-up is over. It follows from the ledger's events alone, and an evaluation is on record before the next version is
(`round_jobs`), so a restart decides at the same round. What clients report of their training is no measure: it goes on
falling while few clients learn their own data by heart (docs/method.md has figures).
"""

import math
from statistics import median

from zowarmup.common.algorithms.settings import WarmUp

Losses = tuple[tuple[int, float], ...]
"""The loss at a version, nats, in ascending order: the last 2 * patience rounds' at most."""


def with_loss(rules: WarmUp, losses: Losses, version: int, loss: float) -> Losses:
    """What is known once a version of the warm-up has been evaluated; nothing where nobody asked."""
    if rules.pivot != "auto":
        return ()
    oldest = version - 2 * rules.patience
    kept = tuple((there, known) for there, known in losses if oldest < there != version)
    return (*kept, (version, math.inf if math.isnan(loss) else loss))


def plateau(rules: WarmUp, losses: Losses) -> str:
    """Why the warm-up has come to its end, as a sentence; empty while it has not, or where nobody asked."""
    last, patience = losses[-1][0] if losses else 0, rules.patience
    if rules.pivot != "auto" or last < 2 * patience:
        return ""
    late = [loss for version, loss in losses if last - patience < version]
    early = [loss for version, loss in losses if last - 2 * patience < version <= last - patience]
    if not early or median(late) < median(early) * (1 - rules.least_improvement):
        return ""
    return (
        f"the held-out loss has not fallen by {100 * rules.least_improvement:g} %: {median(early):.4g} nats in rounds "
        f"{last - 2 * patience + 1} to {last - patience}, {median(late):.4g} in rounds {last - patience + 1} to {last}"
    )
