"""The arithmetic of a commit: applying steps, and the digest. One core; ResNet18's number of parameters."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.rows import Goal, Row, benchmark, beside, row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zowarmup.common.algorithms.zowarmup import ZOWarmUp
    from zowarmup.common.exact.grid import Grid
    from zowarmup.common.exact.replica import Replica
    from zowarmup.common.exact.steps import Step

PARAMETERS, NORMS_AND_HEAD = 11_173_962, 14_730
REPEATED = 100
CLIENTS, PROBES = 10, 8


@benchmark
def apply_steps(repeats: int) -> list[Row]:
    """A round of 10 clients with 8 probes each, against drawing and adding the same number of Gaussian directions."""
    import numpy as np
    import torch

    from zowarmup.common.exact import steps

    torch.set_num_threads(1)
    grid, weights, made = _round()
    parameter = torch.zeros(PARAMETERS)

    def replay() -> None:
        """As published zeroth-order code does it: a generator seeded for the direction, a vector drawn and added."""
        torch.manual_seed(1)
        parameter.add_(torch.randn(PARAMETERS), alpha=1e-6)

    def read_and_write() -> None:
        """What no application can do without: every weight read and written once."""
        np.negative(weights, out=weights)

    seconds = beside(
        repeats,
        time.process_time,
        ours=lambda: steps.apply_steps(weights, grid, made),
        replay=replay,
        memory=read_and_write,
    )
    each = PARAMETERS * CLIENTS * PROBES
    ours = [1e9 * s / each for s in seconds["ours"]]
    bound = 1e9 * min(seconds["memory"]) / each
    return [
        row(
            "apply steps",
            "ns per parameter and direction",
            ours,
            references=[1e9 * s / PARAMETERS for s in seconds["replay"]],
            beside="seeded torch.randn, replayed",
            goal=Goal("ratio", 1 / 25),
            floor=bound,
            limit="the weights read and written once",
            note=f"{statistics.median(seconds['ours']):.3f} s for {CLIENTS} x {PROBES} directions, by NumPy",
        )
    ]


@benchmark
def apply_steps_compiled(repeats: int) -> list[Row]:
    """The same by compiled code, beside NumPy; the extra `jit`."""
    from zowarmup.common.exact import steps
    from zowarmup.common.exact.layout import digest

    grid, weights, made = _round()
    twin = weights.copy()
    allowed = steps._Compiled

    def ours() -> None:
        steps.allow_compiled(0)
        steps.apply_steps(weights, grid, made)

    def plain() -> None:
        allowed.allowed = False
        steps.apply_steps(twin, grid, made)

    seconds = beside(repeats, time.process_time, ours=ours, plain=plain, drawn=lambda: _drawn(made))
    if digest(weights) != digest(twin):
        raise RuntimeError("compiled code gives other bits than NumPy")
    each = PARAMETERS * CLIENTS * PROBES
    return [
        row(
            "apply steps, compiled (extra jit)",
            "ns per parameter and direction",
            [1e9 * s / each for s in seconds["ours"]],
            references=[1e9 * s / each for s in seconds["plain"]],
            beside="the same by NumPy",
            goal=Goal("ratio", 1 / 2),
            floor=1e9 * min(seconds["drawn"]) / each,
            limit="NumPy drawing the directions' bytes, and nothing else",
        )
    ]


@benchmark
def commit_of_norms(repeats: int) -> list[Row]:
    """A commit of 10 default contributions, applied and compared by digest: of the norms and the head, beside everything."""
    from benchmarks import prepared
    from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings

    timed = {}
    for train in ("norm", "all"):
        replica, _ = prepared.loaded(prepared.resnet18(train))
        algorithm = ZOWarmUpSettings(rounds=1, train=train).build(replica.layout)
        timed[train] = _applying(replica, algorithm)
    seconds = beside(repeats, time.process_time, ours=timed["norm"], whole=timed["all"])
    return [
        row(
            'commit of 10 contributions, ResNet18 with train = "norm"',
            "ms",
            [1e3 * s for s in seconds["ours"]],
            references=[1e3 * s for s in seconds["whole"]],
            beside="the same of everything",
            goal=Goal("value", 3.0),
        )
    ]


@benchmark
def apply_steps_to_norms(repeats: int) -> list[Row]:
    """The round of `apply_steps` in a block as large as ResNet18's norms and head, beside the same of all weights."""
    from zowarmup.common.exact import steps
    from zowarmup.common.exact.layout import Block

    grid, weights, made = _round()
    block = Block("probed", PARAMETERS - NORMS_AND_HEAD, PARAMETERS)
    few = [replace(step, block=block) for step in made]

    def ours() -> None:
        for _ in range(REPEATED):
            steps.apply_steps(weights, grid, few)

    seconds = beside(repeats, time.process_time, ours=ours, whole=lambda: steps.apply_steps(weights, grid, made))
    return [
        row(
            f"apply steps to {NORMS_AND_HEAD:,} of {PARAMETERS:,} parameters",
            "ms",
            [1e3 * s / REPEATED for s in seconds["ours"]],
            references=[1e3 * s for s in seconds["whole"]],
            beside="the same to all of them",
            goal=Goal("ratio", 1 / 500),
        )
    ]


def _applying(replica: "Replica", algorithm: "ZOWarmUp") -> Callable[[], None]:
    """What applies the steps of a round of made-up scalars to a replica, and takes its digest."""
    import numpy as np

    from zowarmup.common.algorithms.protocol import ClientScalars, Start
    from zowarmup.common.messages.values import Scalars, Tier

    chance = np.random.default_rng(0)
    counts = algorithm.counts(Tier.LOW, 1000)
    parts = [
        ClientScalars(seed, 1000, Scalars(1, *(tuple(chance.normal(size=count).tolist()) for count in counts)))
        for seed in range(CLIENTS)
    ]
    made = algorithm.aggregate(Start(replica.weights, replica.grid), parts).steps(replica.grid)
    forth = [step.reverse for step in made]
    turns = itertools.cycle((made, forth))  # back and forth, so that no weight leaves the grid

    def apply() -> None:
        replica.step(next(turns))

    return apply


def _round() -> "tuple[Grid, NDArray[np.float32], list[Step]]":
    """Weights on a grid, and the steps of a round."""
    import numpy as np

    from zowarmup.common.exact.grid import Grid
    from zowarmup.common.exact.layout import Block
    from zowarmup.common.exact.steps import Step

    chance, grid, block = np.random.default_rng(0), Grid(20), Block("all", 0, PARAMETERS)
    weights = grid.quantise(chance.normal(0, 0.05, PARAMETERS).astype(np.float32))
    ticks = chance.integers(-300, 300, (CLIENTS, PROBES)).tolist()
    return grid, weights, [Step(seed, block, tuple(moves)) for seed, moves in enumerate(ticks)]


def _drawn(steps: "list[Step]") -> None:
    from zowarmup.common.exact.directions import walk

    for step in steps:
        for _ in walk(step.seed, 0, step.block.start, step.block.stop, 1 << 18):
            pass


@benchmark
def digest(repeats: int) -> list[Row]:
    """xxh3-128 of ResNet18's weights, 45 MB, beside reading them once."""
    import numpy as np

    from zowarmup.common.exact import layout

    weights = np.random.default_rng(0).normal(0, 0.05, PARAMETERS).astype(np.float32)
    seconds = beside(repeats, time.process_time, ours=lambda: layout.digest(weights), read=weights.max)
    return [
        row(
            "digest of 45 MB",
            "ms",
            [1e3 * s for s in seconds["ours"]],
            goal=Goal("value", 30),
            floor=1e3 * min(seconds["read"]),
            limit="the weights read once, by numpy's max",
        )
    ]
