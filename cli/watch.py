"""A run's status, followed until the run is finished.

On a terminal it is redrawn in place; into a file or a pipe goes one line for each change. A coordinator that is gone
for a while (restarted, say) is waited for; that it was there to begin with is the caller's to know.
"""

import contextlib
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import Status
from zowarmup.cli.session.view import Pace, status_line, status_view
from zowarmup.common.messages.values import Phase
from zowarmup.common.system.command import Interrupts, NoAnswer
from zowarmup.common.text import duration

EVERY_S = 0.5


def watch(session: Session, noted: Interrupts, console: Console) -> None:
    """Raises Interrupted where a signal ended it."""
    status = session.status()
    if console.is_terminal:
        drawn = _Drawing(session, console)
        with Live(console=console, auto_refresh=False) as live:
            _follow(session, noted, status, lambda seen, lost: live.update(drawn(seen, lost), refresh=True))
    else:
        _follow(session, noted, status, _Teller(console))


def _follow(session: Session, noted: Interrupts, status: Status, show: Callable[[Status, str], None]) -> None:
    heard = time.monotonic()
    lost = ""
    while True:
        with contextlib.suppress(NoAnswer):  # the next look at the status says so
            show(status, lost)
        if status.phase is Phase.FINISHED and not lost:
            return
        noted.sleep(EVERY_S)
        try:
            status, lost, heard = session.status(), "", time.monotonic()
        except NoAnswer:
            lost = f"no answer from {session.address} for {duration(time.monotonic() - heard)}; waiting for it"


class _Drawing:
    """The status with the curve so far. A version's evaluation comes a moment after it, so the last are asked for again."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session, self._pace = session, Pace()
        self._ascii_only = not console.encoding.lower().startswith("utf")

    def __call__(self, status: Status, lost: str) -> RenderableType:
        if not lost:
            self._pace = self._pace.following(self._session.versions(self._pace.since(status.version)))
        view = status_view(status, self._pace.rows(status, self._ascii_only))
        return Group(view, Text(lost, style="yellow")) if lost else view


class _Teller:
    """One line for each change; of how long something has lasted, only that it does."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = ""

    def __call__(self, status: Status, lost: str) -> None:
        line = lost or status_line(status)
        key = "lost" if lost else line
        if key != self._told:
            self._told = key
            self._console.print(line, soft_wrap=True, markup=False)
