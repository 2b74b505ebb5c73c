"""Coalescing of messages: which of those that have arrived is to be done next.

A device that was busy or away finds several. A later Fetch replaces the replica, so commits before it are moot; work
followed by anything that opens or closes a round is over; commits in a row are applied in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zowarmup.client.net.messages import Fetch, Finished, Message
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.values import Work


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits one after another, to be applied in one pass."""

    commits: tuple[Commit, ...]


InboxItem = Message | Commits


def agenda(messages: Sequence[Message]) -> tuple[InboxItem | None, list[Message]]:
    """The next thing to do, None where there is nothing, and what is left for afterwards."""
    waiting = _worthwhile(messages)
    if not waiting:
        return None, []
    first, rest = waiting[0], waiting[1:]
    if not isinstance(first, Commit):
        return first, rest
    # Nothing that stands between commits in `waiting` depends on them: work never does.
    return Commits((first, *(m for m in rest if isinstance(m, Commit)))), [m for m in rest if not isinstance(m, Commit)]


def _worthwhile(messages: Sequence[Message]) -> list[Message]:
    last_fetch = max((i for i, message in enumerate(messages) if isinstance(message, Fetch)), default=-1)
    last_turn = max((i for i, m in enumerate(messages) if isinstance(m, Work | Commit | Fetch | Finished)), default=-1)
    return [
        message
        for i, message in enumerate(messages)
        if not (isinstance(message, Commit | Fetch) and i < last_fetch)
        and not (isinstance(message, Work) and i < last_turn)
    ]
