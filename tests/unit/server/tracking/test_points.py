"""What trackers are told of a run: the run file's parameters but for what is this machine's, and numbers only."""

import math
from dataclasses import replace

from tests.unit.server.projections.test_history import RUN, committed
from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Server
from zowarmup.common.settings.tracking import Tracking
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import fold
from zowarmup.server.projections.history import History
from zowarmup.server.tracking.points import standing, tracked, values_of

SECRETIVE = replace(
    RUN, server=Server(tls_certificate="/etc/x", tls_key="/etc/y"), tracking=Tracking(mlflow="http://h:1")
)


def test_parameters_are_the_run_files_without_what_is_this_machines() -> None:
    created = replace(CREATED, run_file=SECRETIVE)
    state, history = fold(None, [created]), History()
    assert state is not None
    history.record(7.0, [created])
    run = tracked(state, history)
    assert (run.run_id, run.name, run.began_at) == ("run", "x", 7.0)
    assert run.parameters["zeroth_order.rounds"] == "9" and run.parameters["evaluation.data"] == "digits:test"
    assert run.parameters["name"] == "x" and run.parameters["text.verbalizers"] == "[]"
    assert "/etc/x" not in str(run) and "http://h:1" not in str(run)
    assert run.tags["algorithm"] == "zowarmup" and run.tags["warmup_algorithm"] == "fedavg"


def test_a_version_has_its_rounds_numbers_and_bytes_by_tier_and_what_is_no_number_is_left_out() -> None:
    history = History()
    history.record(0.0, [replace(CREATED, run_file=RUN)])
    counts = (
        ev.TrafficCount("up", "low", "warm-up", "control", 5, 1),
        ev.TrafficCount("up", "low", "zeroth-order", "contribution", 30, 1),
        ev.TrafficCount("up", "", "warm-up", "control", 1000, 1),
        ev.TrafficCount("down", "high", "warm-up", "snapshot", 7, 1),
    )
    opened = ev.RoundOpened(1, Phase.WARM_UP, 0, ("a", "b", "c"), (1, 2, 3), (1, 1, 1), 9.0)
    history.record(1.0, [opened, replace(committed(1, snapshot=True), traffic=counts)])
    history.record(1.0, [ev.Evaluated(1, {"accuracy": 0.25}, math.inf, 4)])
    assert values_of(history.versions[1], history) == {
        "participants": 3,
        "contributions": 0,
        "uplink_bytes/low": 35,
        "downlink_bytes/high": 7,
        "accuracy": 0.25,
    }
    assert values_of(history.versions[0], history) == {}


def test_how_a_run_stands() -> None:
    state = fold(None, [CREATED])
    assert state is not None
    assert standing(state, False).state == "running" and standing(state, True).state == "stopped"
    over = replace(state, phase=Phase.FINISHED)
    assert standing(over, True).state == "finished"
    lost = standing(replace(over, gave_up="the model is lost"), True)
    assert (lost.state, lost.reason) == ("gave up", "the model is lost")
