"""The way back to the last good version's weights, for the coordinator's own replica.

By the steps since, taken back, where steps alone lead from there to the present: sums of ticks are exact, so this gives
every bit. Clients get whichever is shorter, these steps or a snapshot. Otherwise from the snapshots on disk.
"""

from zowarmup.common.codec import encode_commit
from zowarmup.common.merging import merged
from zowarmup.common.replica import Replica
from zowarmup.common.steps import Step, apply_steps
from zowarmup.common.work import Commit
from zowarmup.server.archive import restore
from zowarmup.server.blob_store import BlobStore
from zowarmup.server.guard import Good
from zowarmup.server.history import History
from zowarmup.server.state import State


def go_back(replica: Replica, state: State, good: Good, history: History, blobs: BlobStore) -> tuple[Step, ...] | None:
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
