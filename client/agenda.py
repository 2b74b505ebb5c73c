"""What is worth doing of the messages that have arrived.

A device that was busy or away finds several. A later Fetch replaces the replica, so commits before it are moot; work
followed by anything that opens or closes a round is over; the commits that remain are applied in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zowarmup.client.messages import Fetch, Finished, Message
from zowarmup.common.work import Commit, Work


@dataclass(frozen=True, slots=True)
class Commits:
    """Consecutive commits, to be applied in one pass."""

    commits: tuple[Commit, ...]


Task = Message | Commits


def agenda(messages: Sequence[Message]) -> list[Task]:
    """The messages that still matter, in order, with commits gathered where the first of them stood."""
    last_fetch = max((i for i, message in enumerate(messages) if isinstance(message, Fetch)), default=-1)
    tasks: list[Task] = []
    gathered: list[Commit] = []
    place = -1
    for i, message in enumerate(messages):
        if i < last_fetch and isinstance(message, Commit | Fetch):
            continue
        if isinstance(message, Work) and any(
            isinstance(m, Work | Commit | Fetch | Finished) for m in messages[i + 1 :]
        ):
            continue
        if isinstance(message, Commit):
            place = len(tasks) if place < 0 else place
            gathered.append(message)
        else:
            tasks.append(message)
    if gathered:
        tasks.insert(place, Commits(tuple(gathered)))
    return tasks
