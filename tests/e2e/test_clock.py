"""A coordinator's clock that jumps while a round waits for a device that hangs: the round lasts as long as it may."""

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import wait_until
from tests.e2e.test_stopping import Stage
from zowarmup.cli.session.session import Session
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.lab.demo.settings import to_toml

DEADLINE_S = 6.0
SHIFTED = (
    "import pathlib, sys, time; real, shift = time.time, pathlib.Path(sys.argv.pop(1)); "
    "time.time = lambda: real() + float(shift.read_text()); "
    "from zowarmup.server.main import main; sys.exit(main())"
)
"""The clock as Python tells it, ahead by what a file says."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("jump_s", [-7200, 7200])
def test_a_round_ends_at_its_deadline_whatever_is_done_to_the_clock(
    tmp_path: Path, prepared_models: Path, jump_s: int
) -> None:
    stage, shift = Stage(tmp_path), tmp_path / "shift"
    shift.write_text("0")
    run = RunFile(
        name="clock",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0, clients_per_round=1),
        zeroth_order=zeroth_order_settings(
            rounds=100_000, clients_per_round=1, rate=0.01, deadline_s=DEADLINE_S, learn_deadline=False
        ),
        evaluation=Evaluation(data="digits:test", every=1000),
        guard=Guard(factor=0),
        server=Server(address=f"127.0.0.1:{stage.port}"),
    )
    (tmp_path / "run.toml").write_text(to_toml(run))
    options = [
        str(tmp_path / "run.toml"),
        "--data-dir",
        str(tmp_path / "run"),
        "--model-cache",
        str(prepared_models),
    ]
    began = time.monotonic()
    with stage.started([sys.executable, "-c", SHIFTED, str(shift), *options], "server"):
        stage.printed("server", "listening on")
        with stage.started(stage.client("--tier", "low"), "client") as client:
            stage.printed("server", "version 10 committed")
            hung = time.monotonic()
            client.send_signal(signal.SIGSTOP)
            shift.write_text(str(jump_s))
            wait_until(
                lambda: re.search(r"round \d+ abandoned", stage.log("server")) is not None, 60, "the round to end"
            )
            assert time.monotonic() - hung > DEADLINE_S / 3, "not early: the round was opened shortly before"
            with Session(f"127.0.0.1:{stage.port}", deadline_s=30) as session:
                status, (row,) = session.status(), session.clients()
            elapsed_s = time.monotonic() - began
            assert 0 <= status.uptime_s <= elapsed_s
            assert row.since_s is not None and 0 <= row.since_s <= elapsed_s
            assert row.contributed_s is not None and 0 < row.contributed_s <= elapsed_s
            assert "7200" not in status.activity and "-" not in status.activity.partition("(")[0]
