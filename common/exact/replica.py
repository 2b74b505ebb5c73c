"""A model at a version, and the commits that move it on.

Every replica, the coordinator's and each client's alike, is a snapshot plus the committed steps since, applied here.
Steps are whole ticks of the grid, so all replicas at one version are equal bit for bit; the digest that travels with
each commit proves it or says that something is wrong. What is frozen after the pivot has a digest of its own, so that a
commit costs what it moves. Ticks are whole numbers, so many steps of one stream and block
are one step, exactly (`merged`): what a run along a pool of directions has done in any number of rounds is a tick for
each of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout
from zowarmup.common.exact.steps import Step, apply_steps

_REACH = 1 << 31


def merged(steps: Sequence[Step]) -> list[Step]:
    """Steps that move the weights as `steps` do, at most one for each stream and block, in the order in which those
    first occur; more only where the sums do not fit a step."""
    gathered: dict[tuple[int, Block], list[Step]] = {}
    for step in steps:
        gathered.setdefault((step.seed, step.block), []).append(step)
    found: list[Step] = []
    for (seed, block), alike in gathered.items():
        if len(alike) == 1:
            found += alike
            continue
        total: NDArray[np.int64] = np.zeros(max(len(step.ticks) for step in alike), dtype=np.int64)
        for step in alike:
            total[: len(step.ticks)] += step.ticks
        fits = int(np.abs(total).sum()) < _REACH
        found += [Step(seed, block, tuple(total.tolist()))] if fits else alike
    return found


@dataclass(frozen=True, slots=True)
class Commit:
    """What moves a replica on to a version.

    Args:
        version: The one that it reaches, at least 1.
        digest: The replica's digest there, 16 bytes.
        steps: In any order.
        versions: By how many versions it leads on, 1 to `version`.

    Raises:
        ValueError: A field is out of its range.
    """

    version: int
    digest: bytes
    steps: tuple[Step, ...]
    versions: int = 1

    def __post_init__(self) -> None:
        if self.version < 1 or len(self.digest) != 16:
            raise ValueError("commit: version must be at least 1 and digest 16 bytes")
        if not 1 <= self.versions <= self.version:
            raise ValueError(f"commit: it leads {self.versions} versions on, to {self.version}")


class Diverged(Exception):
    """A replica's digest is not the one its version has: its weights cannot be trusted any more.

    Args:
        version: The replica's.
        expected: The digest that the run has at that version, 16 bytes.
        found: The replica's, 16 bytes.
    """

    def __init__(self, version: int, expected: bytes, found: bytes) -> None:
        super().__init__(f"replica at version {version} has digest {found.hex()}, the run has {expected.hex()}")
        self.version, self.expected, self.found = version, expected, found


@dataclass(slots=True)
class Replica:
    """A model at a version.

    Args:
        layout: Of the model.
        grid: That the trainable weights lie on.
        weights: Float32 (layout.size,), changed in place by `apply`.
        version: What they are.

    Raises:
        ValueError: `weights` have another shape or type.
    """

    layout: Layout
    grid: Grid
    weights: NDArray[np.float32]
    version: int
    _frozen: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.weights.shape != (self.layout.size,) or self.weights.dtype != np.float32:
            raise ValueError(
                f"replica: weights are {self.weights.dtype} {self.weights.shape}, the layout has {self.layout.size} float32"
            )

    def digest(self) -> bytes:
        """The layout's digest of all of the weights, 16 bytes."""
        self._frozen = self.layout.frozen_digest(self.weights)
        return self.layout.digest(self.weights, self._frozen)

    def frozen_digest(self) -> bytes:
        """The layout's digest of what no zeroth-order round moves, 16 bytes; empty where that is not told apart."""
        if self._frozen is None:
            self._frozen = self.layout.frozen_digest(self.weights)
        return self._frozen

    def replace(self, grid: Grid, weights: NDArray[np.float32]) -> None:
        """Take other weights, float32 (layout.size,), which are copied, and their grid."""
        self.grid, self.weights[:], self._frozen = grid, weights, None

    def step(self, steps: Sequence[Step]) -> bytes:
        """Move by steps, in one pass over what they move, in place.

        Args:
            steps: In any order, in blocks that are not frozen.

        Returns:
            The digest, which takes what is frozen as it was.

        Raises:
            HeadroomExceeded: A weight would leave the grid; nothing is changed.
            ValueError: A step would move what is frozen; nothing is changed.
        """
        if any(step.block.start < self.layout.frozen for step in steps):
            raise ValueError("replica: a step would move what is frozen")
        frozen = self.frozen_digest()
        apply_steps(self.weights, self.grid, steps)
        return self.layout.digest(self.weights, frozen)

    def apply(self, commits: Sequence[Commit]) -> None:
        """Move on by consecutive commits, in one pass over the weights, in place.

        Args:
            commits: In ascending order of their versions; the first follows `version`.

        Raises:
            ValueError: A commit does not follow the one before, or would move what is frozen; nothing is changed.
            HeadroomExceeded: A weight would leave the grid; nothing is changed.
            Diverged: The digest afterwards is not the last commit's; the replica has moved.
        """
        if not commits:
            return
        reached = self.version
        for commit in commits:
            if commit.version - commit.versions != reached:
                raise ValueError(
                    f"replica at version {self.version}: a commit of version {commit.version} does not follow"
                )
            reached = commit.version
        found = self.step(merged([step for commit in commits for step in commit.steps]))
        self.version = commits[-1].version
        if found != commits[-1].digest:
            raise Diverged(self.version, commits[-1].digest, found)
