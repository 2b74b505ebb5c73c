"""What the log says of a run, and how often."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from zowarmup.common.messages.values import Abstention
from zowarmup.server.core import commands as cmd
from zowarmup.server.telemetry.event_logger import EventLogger


def test_who_abstains_is_told_once_for_each_reason(begin: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zowarmup.run")
    event_logger, script = EventLogger(), begin(warmup=0, clients=3, zeroth_order=9)
    script.advance(0)

    def tell(*events: Any) -> None:
        event_logger(script.now, events, script.state)

    def abstain(reason: str) -> None:
        tell(*script.do(cmd.Abstain("b", Abstention(script.state.current.number, reason))))

    for name in ("a", "b", "c"):
        script.join(name)
    for reason in ("not finite", "not finite", "beyond the grid", ""):
        if reason:
            abstain(reason)
        tell(*script.contribute(*(("a", "c") if reason else ("a", "b", "c"))))
        script.commit()
    abstain("beyond the grid")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        "round 1: b abstains: not finite",
        "round 3: b abstains: beyond the grid",
        "round 5: b abstains: beyond the grid",
    ], "not what it said before already, but again once it has contributed in between"
