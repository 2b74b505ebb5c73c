"""The page of a run as one file, from its data directory: beside its coordinator, or when that is long gone.

The ledger has no word of who is connected, of memory and of each device's bytes: those stand in a page that was taken from a
coordinator (`/state.json`), and are missing here.
"""

import time
from pathlib import Path
from typing import Any

from zowarmup.server.store.archive import open_archive
from zowarmup.server.telemetry.page.summary import PageSources
from zowarmup.server.telemetry.page.view import PageView


def state_on_disk(data_dir: Path) -> dict[str, Any]:
    """What the page shows of a data directory. Raises ArchiveError where there is no readable run."""
    archive = open_archive(data_dir)
    latest = archive.history.traffic.latest
    view = PageView(
        PageSources(
            state=lambda: archive.state,
            clock=time.time,
            history=archive.history,
            counts=lambda: latest,
            carried=lambda client: (0, 0),
            refusals={},
            live=False,
        )
    )
    while view.look():
        pass
    return view.whole()
