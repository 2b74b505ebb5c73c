"""The live page's read model: what changes, applied to what was, is what is; and what it says of a run at each turn."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenario.conftest import Script
from zowarmup.common.messages.values import Abstention, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.activity import activity
from zowarmup.server.projections.history import History
from zowarmup.server.telemetry.page.devices import FEWEST_ROWS, STATES
from zowarmup.server.telemetry.page.series import MOST, Series
from zowarmup.server.telemetry.page.summary import PageSources
from zowarmup.server.telemetry.page.view import PageView, encoded


class Watched:
    """A page beside a script. `shown`: what a browser has, from the first state and the changes since."""

    def __init__(self, script: Script) -> None:
        self.script, self.history, self._told = script, History(), 0
        self.carried: dict[str, tuple[int, int]] = {}
        self.counts: tuple[ev.TrafficCount, ...] = ()
        self.refusals = Counter[str]()
        self.history.record(script.now, [script.created], script.now)
        self.sources = PageSources(
            lambda: script.state,
            lambda: script.now,
            self.history,
            lambda: self.counts,
            lambda name: self.carried.get(name, (0, 0)),
            self.refusals,
        )
        self.view = PageView(self.sources)
        self.view.look()
        self.shown = copy.deepcopy(self.view.whole())

    def look(self) -> dict[str, Any]:
        """What a browser is told; what it then has is everything, and what another one gets that comes now."""
        self.history.record(self.script.now, self.script.events[self._told :], self.script.now)
        self._told = len(self.script.events)
        change = self.view.look()
        if change:
            change = json.loads(encoded(change))
            self._apply(copy.deepcopy(change))
        if len(self.shown["codes"]) < FEWEST_ROWS:
            fresh = PageView(self.sources)
            fresh.look()
            for name in ("codes", "rows", "now"):
                assert self.shown[name] == json.loads(encoded(fresh.whole()))[name], name
        assert json.loads(json.dumps(self.shown)) == json.loads(encoded({**self.view.whole(), "at": self.shown["at"]}))
        return change

    def _apply(self, change: dict[str, Any]) -> None:
        self.shown["at"] = change["at"]
        self.shown["now"].update(change.get("now", {}))
        for device in change.get("devices", []):
            self.shown["devices"].append(device)
            self.shown["codes"].append(-1)
            self.shown["rows"].append([])
        pairs = change.get("codes", [])
        for number, code in zip(pairs[::2], pairs[1::2], strict=True):
            self.shown["codes"][number] = code
        for number, *row in change.get("rows", []):
            self.shown["rows"][number] = row
        for name in ("curve", "uplink"):
            self.shown[name] = change.get(f"{name}_anew", self.shown[name])
            self.shown[name] += change.get(name, [])

    def states(self) -> dict[str, str]:
        return {name: STATES[code] for (name, _), code in zip(self.shown["devices"], self.shown["codes"], strict=True)}


@pytest.fixture
def watched(begin: Callable[..., Script]) -> Watched:
    return Watched(begin(zeroth_order=3, clients=2, minimum=2, quorum=1.0))


def test_changes_lead_from_the_first_state_to_the_last(watched: Watched) -> None:
    script = watched.script
    assert watched.shown["now"]["sentence"] == activity(script.state, script.now)
    assert watched.shown["now"]["sentence"] == "waiting: 0 of 1 high-tier clients connected"
    script.join("high", Tier.HIGH)
    watched.look()
    assert watched.states() == {"high": "asked"}
    script.contribute("high")
    watched.carried["high"] = (120, 40)
    change = watched.look()
    assert change["lit"] == [0] and change["rows"][0][4:6] == [120, 40]
    assert watched.states() == {"high": "contributed"}
    watched.counts = (ev.TrafficCount("up", "high", "warm-up", "contribution", 120, 1),)
    script.commit()
    script.do(cmd.RecordEvaluation(1, {"accuracy": 0.5}, 0.75, 10))
    script.join("low")
    watched.look()
    assert watched.shown["curve"] == [[1, 0.5, 0.75]] and watched.shown["now"]["at_pivot"]["loss"] == 0.75
    assert watched.shown["now"]["phase"] == "zeroth-order" and watched.shown["now"]["pivot"]["made"]
    assert watched.shown["uplink"] == [[1, 0, 0, 20 * 4]]
    assert watched.states() == {"high": "asked", "low": "asked"}
    assert watched.shown["now"]["round"]["drawn"] == 2
    script.lose("low")
    watched.look()
    assert watched.states()["low"] == "gone"
    assert watched.shown["now"]["fleet"]["low"] == {"members": 1, "connected": 0}
    script.hello("low")
    watched.look()
    assert watched.states()["low"] == "asked"
    current = script.state.current
    assert current is not None
    script.do(cmd.Abstain("low", Abstention(current.number, "<img src=x onerror=alert(1)>")))
    watched.look()
    assert watched.states()["low"] == "abstains"
    assert watched.shown["rows"][1][-1] == "<img src=x onerror=alert(1)>", "as it is: a browser makes text of it"
    script.do(cmd.Pause("lunch"))
    watched.look()
    assert (watched.shown["now"]["sentence"], watched.shown["now"]["tone"]) == ("paused: lunch", "paused")
    script.do(cmd.Revoke("low", "left on a train"))
    watched.look()
    assert watched.states()["low"] == "revoked" and watched.shown["rows"][1][-1] == "left on a train"


def test_where_nothing_happens_nothing_is_said_and_no_device_is_looked_at(watched: Watched) -> None:
    watched.script.do(cmd.Pause("lunch"))
    watched.look()
    for _ in range(3):
        watched.script.now += 0.25
        assert watched.look() == {}


def test_what_is_refused_is_a_note(watched: Watched) -> None:
    watched.refusals["malformed"] += 3
    watched.look()
    assert watched.shown["now"]["warnings"] == [["note", "refused: 3 malformed"]]


def test_rows_of_a_large_fleet_come_a_part_at_a_time(begin: Callable[..., Script]) -> None:
    """Each commit goes to everyone, and so changes everyone's bytes."""
    script = begin(warmup=1, clients=2, minimum=2)
    for number in range(400):
        script.join(f"pi-{number}")
    watched = Watched(script)
    for _ in range(9):
        watched.look()
    watched.carried = {f"pi-{number}": (1, 1) for number in range(400)}
    seen = [len(watched.look().get("rows", [])) for _ in range(8)]
    assert max(seen) == 50 and sum(seen) == 400


@pytest.mark.parametrize("versions", [MOST, MOST + 1, 5 * MOST])
@pytest.mark.parametrize("at_once", [True, False])
def test_curves_stay_short_and_keep_their_ends(begin: Callable[..., Script], versions: int, at_once: bool) -> None:
    script = begin()
    history = History()
    history.record(0.0, [script.created])
    series, shown = Series(history), 0
    for number in range(1, versions + 1):
        committed = ev.Committed(number, number, f"{number:032x}", (), None, ())
        history.record(float(number), [committed, ev.Evaluated(number, {"accuracy": 0.5}, float("nan"), 10)])
        if not at_once or number == versions:
            object.__setattr__(script.state, "version", number)
            series.changes(script.state)
            shown = max(shown, len(series.curve), len(series.uplink))
    assert MOST // 2 <= len(series.curve) <= MOST and len(series.uplink) <= MOST and shown <= MOST
    assert series.curve[-1] == (versions, 0.5, None)
    numbers = [point[0] or 0 for point in series.curve]
    assert numbers == sorted(set(numbers))
    assert series.uplink[-1][0] == versions
