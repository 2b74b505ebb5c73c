"""What holds for all tests: properties are true or false, however long an example takes on a busy machine; signals do what
they do by default, however the tests were started; and over which event logs the tests run that take any."""

import signal

import pytest
from hypothesis import settings

from tests.faults.logs import EVENT_LOGS, Logs

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--event-log",
        choices=(*EVENT_LOGS, "all"),
        help="run the scenarios and the crashes over this event log. By default scenarios run in memory, crashes over SQLite, and "
        "some of both over both",
    )


def pytest_configure(config: pytest.Config) -> None:
    # nohup lets us, and whatever we start, ignore SIGHUP, as a shell's `&` does with SIGINT.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "event_logs(name, ...): the event logs that a test runs over by default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `event_log`, or a fixture that does, run once over each event log that is chosen."""
    if "event_log" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--event-log")
        marker = metafunc.definition.get_closest_marker("event_logs")
        names = (chosen,) if chosen else marker.args if marker else ("memory",)
        metafunc.parametrize("event_log", EVENT_LOGS if chosen == "all" else names, indirect=True)


@pytest.fixture
def event_log(request: pytest.FixtureRequest) -> Logs:
    return EVENT_LOGS[request.param]()
