"""The page's read model: the whole of what it shows, and what of it has changed since the last look.

Nothing of it is kept while nobody looks: it is computed from the coordinator's immutable state, the history and the traffic
at each look, in the thread of who looks. What is compared is small (`summary`), or known not to have changed where the state is
the same object as before (`devices`), or only grows (`series`). So a look costs the coordinator some milliseconds for
thousands of devices, and none of its event loop.
"""

import json
from typing import Any

from zowarmup.server.telemetry.page.devices import Devices
from zowarmup.server.telemetry.page.series import Series
from zowarmup.server.telemetry.page.summary import PageSources, run_of, summary

_NEVER = object()


class PageView:
    """What the page shows of a run. For one thread."""

    def __init__(self, sources: PageSources) -> None:
        self._sources = sources
        self._series = Series(sources.history)
        self._devices = Devices(sources.history.participations, sources.carried, sources.live)
        self._run = run_of(sources.state(), sources.live)
        self._parts: dict[str, Any] = {}
        self._at = 0.0

    def look(self) -> dict[str, Any]:
        """What has changed since the last look; empty where nothing has. `at`: by the coordinator's clock, seconds."""
        state, self._at = self._sources.state(), round(self._sources.clock(), 2)
        found = {**self._devices.changes(state), **self._series.changes(state)}
        parts = summary(self._sources, state, self._at, self._devices.fleet())
        parts["contributions"] = self._series.contributions
        changed = {name: part for name, part in parts.items() if self._parts.get(name, _NEVER) != part}
        self._parts = parts
        return {"at": self._at, **found, **({"now": changed} if changed else {})} if found or changed else {}

    def whole(self) -> dict[str, Any]:
        """All of it, as of the last look."""
        return {
            "at": self._at,
            "run": self._run,
            "now": self._parts,
            **self._devices.whole(),
            **self._series.whole(),
        }


def encoded(value: dict[str, Any]) -> bytes:
    """As JSON in one line, ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
