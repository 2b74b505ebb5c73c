"""Probes of low-rank adapters in a language model: all of a round's directions in one batch, beside one at a time.

The model has the architecture of all-MiniLM-L6-v2 and random weights, since time does not depend on them; the texts are as long as
SST-2's sentences. What is timed is a whole contribution.

    python -m benchmarks --only probes_of_adapters
"""

import threading
import time
from typing import TYPE_CHECKING

from benchmarks import prepared
from benchmarks.rows import Goal, Row, benchmark, beside, row

if TYPE_CHECKING:
    from zowarmup.data import Dataset

DIRECTIONS = 32
LEAST, MEAN, DEVIATION = 3, 23, 12
"""Of the texts' lengths, in tokens, special ones included."""


@benchmark
def probes_of_adapters(repeats: int) -> list[Row]:
    """A contribution of 32 directions with an example each, r = 8 on queries and values."""
    seconds = _seconds(repeats, DIRECTIONS)
    return [
        row(
            "probes of adapters in one batch, MiniLM, 32 directions with an example each",
            "probes/s",
            [DIRECTIONS / s for s in seconds["together"]],
            references=[DIRECTIONS / s for s in seconds["one_at_a_time"]],
            beside="one at a time",
            goal=Goal("ratio", 1.8, at_least=True),
        )
    ]


def _seconds(repeats: int, examples: int) -> dict[str, list[float]]:
    """Of processor time, for a contribution of so many examples."""
    from zowarmup.client.work.probing import Prober
    from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
    from zowarmup.common.exact.layout import Block
    from zowarmup.common.messages.values import Phase, Work
    from zowarmup.common.tasks.classification import Classification

    class OneAtATime(Prober):
        def at_once(self, block: Block) -> int:
            return 0

    replica, program = prepared.loaded(prepared.minilm())
    data = texts(examples)
    spec = ZOWarmUpSettings(rounds=1, probes=DIRECTIONS, train=prepared.ADAPTERS, eps=1e-2, whitening=0)
    several, alone = (
        kind(spec, replica, program, Classification(data), data, threading.Event()) for kind in (Prober, OneAtATime)
    )
    work = Work(1, Phase.ZEROTH_ORDER, 0, 7, 0.0)
    return beside(
        repeats,
        time.process_time,
        together=lambda: several.contribute(replica, work),
        one_at_a_time=lambda: alone.contribute(replica, work),
    )


def texts(count: int) -> "Dataset":
    """Tokens without a meaning."""
    import numpy as np

    from zowarmup.common.settings.data_card import PADDING
    from zowarmup.data import Dataset

    chance, shape = np.random.default_rng(0), (MEAN / DEVIATION) ** 2
    lengths = np.clip(chance.gamma(shape, MEAN / shape, count).round(), LEAST, prepared.TOKENS)
    tokens = chance.integers(1000, prepared.VOCABULARY, (count, prepared.TOKENS)).astype(np.int32)
    tokens[np.arange(prepared.TOKENS) >= lengths[:, np.newaxis]] = PADDING
    return Dataset(tokens, np.arange(count) % 2, 2, axes=("tokens",))
