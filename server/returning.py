"""The way back to the last good version's weights, for the coordinator's own replica.

By the steps since, taken back, where steps alone lead from there to the present: sums of ticks are exact, so this gives
every bit, and it costs clients as little as the steps did. Otherwise from the snapshots on disk.
"""

from zowarmup.common.replica import Replica
from zowarmup.common.steps import Step, apply_steps
from zowarmup.server.archive import restore
from zowarmup.server.blobs import Blobs
from zowarmup.server.guard import Good
from zowarmup.server.history import History
from zowarmup.server.state import State


def go_back(replica: Replica, state: State, good: Good, history: History, blobs: Blobs) -> tuple[Step, ...] | None:
    """Move the replica, which is at the present version, to the weights of the good one, as the next version: the steps
    that did it, None where only a snapshot can tell. Raises ArchiveError where no snapshot on disk leads there."""
    commits = history.since(good.version, state.version)
    steps: tuple[Step, ...] | None = None
    if commits is not None:
        steps = tuple(step.reverse for commit in commits for step in commit.steps)
        apply_steps(replica.weights, replica.grid, steps)
    else:
        restored = restore(state, history, blobs, good.version)
        replica.grid, replica.weights[:] = restored.grid, restored.weights
    replica.version = state.version + 1
    return steps
