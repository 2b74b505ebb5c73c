"""The page of a run as it is kept: from what a coordinator says, or from its data directory when that is long gone.

The ledger has no word of memory and of each device's bytes: they are in what a coordinator says (`/state.json`), and missing
where the page is made of a data directory. Who was connected is in neither: a page that is kept says who took part.
"""

import time
from pathlib import Path
from typing import Any

from zowarmup.server.stored.opening import archive_of
from zowarmup.server.telemetry.page.devices import ABSTAINS, DID_NOT, REVOKED, TOOK_PART
from zowarmup.server.telemetry.page.summary import PageSources
from zowarmup.server.telemetry.page.view import PageView


def as_kept(state: dict[str, Any]) -> dict[str, Any]:
    """What a coordinator says of its run, as of a run without one."""
    codes = [
        code if code in (ABSTAINS, REVOKED) else TOOK_PART if row and row[0] else DID_NOT
        for code, row in zip(state["codes"], state["rows"], strict=True)
    ]
    return {**state, "run": {**state["run"], "live": False}, "codes": codes, "now": {**state["now"], "left": ""}}


def state_on_disk(data_dir: Path) -> dict[str, Any]:
    """What the page shows of a data directory. Raises ArchiveError where there is no readable run."""
    archive = archive_of(data_dir)
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
