"""A log under a flood: how many lines pass, and what is said of the rest."""

import logging

from zowarmup.common.system.logs import Throttle


def record(message: str, *values: object, level: int = logging.INFO, name: str = "zowarmup") -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, values, None)


def test_some_lines_of_each_kind_pass_and_the_next_says_how_many_did_not() -> None:
    now = [100.0]
    throttle = Throttle(20.0, 2.0, clock=lambda: now[0])
    passed = [throttle.filter(record("refused %s", number)) for number in range(1000)]
    assert passed == [True] * 20 + [False] * 980
    assert throttle.filter(record("another kind")) and throttle.filter(record("refused %s", 1, level=logging.DEBUG))
    now[0] += 5.0
    lines = [record("refused %s", number) for number in range(1000)]
    passed = [throttle.filter(line) for line in lines]
    assert passed == [True] * 10 + [False] * 990
    assert lines[0].getMessage() == "refused 0 (and 980 more like it)"
    assert lines[1].getMessage() == "refused 1"


def test_one_in_ten_seconds() -> None:
    now = [100.0]
    throttle = Throttle(1.0, 0.1, clock=lambda: now[0])
    for passes in ([True, False, False], [True, False, False]):
        assert [throttle.filter(record("lost %s", n)) for n in range(3)] == passes
        now[0] += 10.0


def test_a_logger_may_have_limits_of_its_own() -> None:
    throttle = Throttle(1.0, 1.0, {"zowarmup.run": (500.0, 50.0)}, clock=lambda: 0.0)
    lines = [throttle.filter(record("version %d committed", n, name="zowarmup.run")) for n in range(2000)]
    assert sum(lines) == 500


def test_kinds_are_forgotten() -> None:
    throttle = Throttle(1.0, 1.0, clock=lambda: 0.0)
    assert all(throttle.filter(record(f"kind {number}")) for number in range(3 * Throttle.KINDS))
    assert len(throttle._kinds) <= Throttle.KINDS
