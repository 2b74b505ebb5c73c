"""What holds for all tests: properties are true or false, however long an example takes on a busy machine; signals do what
they do by default, however the tests were started; and over which backends the tests run that take any."""

import signal

import pytest
from hypothesis import settings

from tests.faults.backends import BACKENDS, Backend

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=(*BACKENDS, "all"),
        help="run the scenarios and the crashes over this backend. By default scenarios run in memory, crashes over files, and "
        "some of both over both",
    )


def pytest_configure(config: pytest.Config) -> None:
    # nohup lets us, and whatever we start, ignore SIGHUP, as a shell's `&` does with SIGINT.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "backends(name, ...): the backends that a test runs over by default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `backend`, or a fixture that does, run once over each backend that is chosen."""
    if "backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend")
        marker = metafunc.definition.get_closest_marker("backends")
        names = (chosen,) if chosen else marker.args if marker else ("memory",)
        metafunc.parametrize("backend", BACKENDS if chosen == "all" else names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()
