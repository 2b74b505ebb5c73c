"""A model at a version, and the commits that move it on.

Every replica, the coordinator's and each client's alike, is a snapshot plus the committed steps since, applied here.
Steps are whole ticks of the grid, so all replicas at one version are equal bit for bit; the digest that travels with
each commit proves it or says that something is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout, digest
from zowarmup.common.exact.merging import merged
from zowarmup.common.exact.steps import Step, apply_steps


@dataclass(frozen=True, slots=True)
class Commit:
    """The steps that move a replica on by `versions` to `version`, and the digest (16 bytes) it then has."""

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
    """A replica's digest is not the one its version has: its weights cannot be trusted any more."""

    def __init__(self, version: int, expected: bytes, found: bytes) -> None:
        super().__init__(f"replica at version {version} has digest {found.hex()}, the run has {expected.hex()}")
        self.version, self.expected, self.found = version, expected, found


@dataclass(slots=True)
class Replica:
    """`weights`: float32 (layout.size,), on `grid`, changed in place by `apply`; `version`: what they are."""

    layout: Layout
    grid: Grid
    weights: NDArray[np.float32]
    version: int

    def __post_init__(self) -> None:
        if self.weights.shape != (self.layout.size,) or self.weights.dtype != np.float32:
            raise ValueError(
                f"replica: weights are {self.weights.dtype} {self.weights.shape}, the layout has {self.layout.size} float32"
            )

    def digest(self) -> bytes:
        """xxh3-128 of the weights, 16 bytes."""
        return digest(self.weights)

    def apply(self, commits: Sequence[Commit]) -> None:
        """Move on by consecutive commits, in one pass over the weights, in place.

        Raises ValueError where the first does not follow `version` (nothing is changed) and Diverged where the digest
        afterwards is not the last commit's.
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
        apply_steps(self.weights, self.grid, merged([step for commit in commits for step in commit.steps]))
        self.version = commits[-1].version
        found = self.digest()
        if found != commits[-1].digest:
            raise Diverged(self.version, commits[-1].digest, found)
