"""The line of progress of what takes long: redrawn on a terminal, elsewhere said from time to time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text


@contextmanager
def progress(console: Console, every_s: float) -> Iterator[Callable[..., None]]:
    """Gives `show(line, view, key)`. On a terminal it redraws in place what `view` gives, or else the line; elsewhere it
    prints the line where that is new, at most every `every_s` seconds, and at once where `key` is new."""
    if console.is_terminal:
        with Live(Text("starting"), console=console, auto_refresh=False, transient=True) as live:

            def redraw(line: str, view: Callable[[], RenderableType] | None = None, key: object = None) -> None:
                live.update(view() if view else Text(line, overflow="ellipsis", no_wrap=True), refresh=True)

            yield redraw
        return
    shown: tuple[str, object, float] | None = None

    def tell(line: str, view: Callable[[], RenderableType] | None = None, key: object = None) -> None:
        nonlocal shown
        now = time.monotonic()
        if shown is None or key != shown[1] or (line != shown[0] and now >= shown[2] + every_s):
            shown = line, key, now
            console.print(line, soft_wrap=True, markup=False)

    yield tell
