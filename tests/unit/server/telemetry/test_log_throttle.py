"""A log under a flood: how many lines pass, and what is said of the rest."""

import logging

import pytest

from zowarmup.server.telemetry import log_throttle
from zowarmup.server.telemetry.log_throttle import AT_ONCE, PER_S, REPORT_S, RUN_AT_ONCE, Throttle


def record(
    message: str, *values: object, level: int = logging.INFO, name: str = "zowarmup.server"
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, values, None)


def test_some_lines_of_each_kind_pass_and_the_rest_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    held = Throttle(lambda: now[0])
    passed = [held.filter(record("refused %s", number)) for number in range(1000)]
    assert passed == [True] * int(AT_ONCE) + [False] * (1000 - int(AT_ONCE))
    assert held.filter(record("another kind")) and held.filter(record("refused %s", 1, level=logging.DEBUG))
    held.report()
    assert caplog.text == ""
    now[0] += REPORT_S
    held.report()
    held.report()
    assert [one.getMessage() for one in caplog.records] == ["980 more lines like this one were not logged: refused %s"]
    assert sum(held.filter(record("refused %s", number)) for number in range(1000)) == min(AT_ONCE, PER_S * REPORT_S)


def test_what_the_run_tells_is_not_a_flood() -> None:
    held = Throttle(lambda: 0.0)
    lines = [held.filter(record("version %d committed", n, name="zowarmup.run")) for n in range(2000)]
    assert sum(lines) == RUN_AT_ONCE


def test_kinds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_throttle, "KINDS", 10)
    held = Throttle(lambda: 0.0)
    assert all(held.filter(record(f"kind {number}")) for number in range(1000))
    assert len(held._kinds) <= 10
