"""Which of the messages that have arrived is done next."""

import pytest

from zowarmup.client.net.messages import Accepted, Commits, Fetch, Finished, InboxItem, Message, Welcome, agenda
from zowarmup.common.exact.replica import Commit
from zowarmup.common.messages.values import Phase, Work


def commit(version: int) -> Commit:
    return Commit(version, bytes(16), ())


def work(number: int) -> Work:
    return Work(number, Phase.ZEROTH_ORDER, number - 1, 7, 60.0)


WELCOME = Welcome(1, Phase.ZEROTH_ORDER, 3, "")
C1, C2, C3 = commit(1), commit(2), commit(3)
F2 = Fetch(2, "far behind")
END = Finished(3, bytes(16))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        ([WELCOME, work(1)], [WELCOME, work(1)]),
        ([C1, C2, C3], [Commits((C1, C2, C3))]),
        # Work that a commit follows was for a round that has closed: only the last can still be done.
        ([work(1), C1, work(2), C2, work(3)], [Commits((C1, C2)), work(3)]),
        ([work(1), work(2)], [work(2)]),
        ([work(1), END], [END]),
        ([Accepted(1), C1, Accepted(2), C2, work(3)], [Accepted(1), Commits((C1, C2)), Accepted(2), work(3)]),
        # A fetch makes what was before it moot, not what follows.
        ([C1, F2, C3, work(4)], [F2, Commits((C3,)), work(4)]),
        ([Fetch(1, "pivot"), C1, work(2), F2], [F2]),
        ([F2, work(3)], [F2, work(3)]),
    ],
)
def test_agenda(messages: list[Message], expected: list[InboxItem]) -> None:
    tasks: list[InboxItem] = []
    left = messages
    while (step := agenda(left))[0] is not None:
        assert step[0] is not None
        tasks.append(step[0])
        left = step[1]
    assert tasks == expected


def test_work_that_a_later_message_ended_while_the_device_was_busy_is_left() -> None:
    task, left = agenda([C1, work(2)])
    assert task == Commits((C1,))
    assert agenda([*left, C2, work(3)]) == (Commits((C2,)), [work(3)])
