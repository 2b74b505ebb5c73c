"""Rollback of the coordinator's replica to the weights of the last good version.

By the steps since, taken back, where steps alone lead from there to the present: sums of ticks are exact, so this gives
every bit. Clients get whichever is shorter, these steps or a snapshot. Otherwise from the snapshots on disk.
"""

from zowarmup.common.exact.replica import Commit, Replica, merged
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.codec import encode_commit
from zowarmup.server.core.guard import GoodVersion
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.store.archive import restore
from zowarmup.server.store.blobs import Blobs


def go_back(
    replica: Replica, state: State, good: GoodVersion, history: History, blobs: Blobs
) -> tuple[Step, ...] | None:
    """Move the replica, which is at the present version, to the weights of the good one, as the next version: the steps
    that did it, None where only a snapshot can tell, or is shorter. Raises ArchiveError where no snapshot on disk leads
    there."""
    commits = history.since(good.version, state.version)
    steps: tuple[Step, ...] | None = None
    if commits is not None:
        steps = tuple(merged([step.reverse for commit in commits for step in commit.steps]))
        apply_steps(replica.weights, replica.grid, steps)
        told = encode_commit(Commit(state.version + 1, bytes.fromhex(good.digest), steps), state.layout)
        if len(told) > replica.weights.nbytes:
            steps = None
    else:
        restored = restore(state, history, blobs, good.version)
        replica.grid, replica.weights[:] = restored.grid, restored.weights
    replica.version = state.version + 1
    return steps
