"""What holds for all tests: properties are true or false, however long an example takes on a busy machine; signals do what
they do by default, however the tests were started; and over which backends the tests run that take any."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.faults.backends import BACKENDS, POSTGRESQL, Backend, Postgres
from tests.postgres.server import PostgresServer, serving

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=(*BACKENDS, POSTGRESQL, "all"),
        help="run the scenarios and the crashes over this backend. By default scenarios run in memory, crashes over files, and "
        "some of both over both",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is collected: what is imported and collected stays, and going through it takes seconds
    # nohup lets us, and whatever we start, ignore SIGHUP, as a shell's `&` does with SIGINT.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "backends(name, ...): the backends that a test runs over by default")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `backend`, or a fixture that does, run once over each backend that is chosen."""
    if "backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend")
        marker = metafunc.definition.get_closest_marker("backends")
        names = (chosen,) if chosen else marker.args if marker else ("memory",)
        metafunc.parametrize("backend", (*BACKENDS, POSTGRESQL) if chosen == "all" else names, indirect=True)


@pytest.fixture(scope="session")
def prepared_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache for coordinators of which a test asks nothing about how they prepare (`tests.prepared`); all workers
    share it."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "prepared-models"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started when the first test asks for it; each test has schemas of its own."""
    with serving() as server:
        yield server


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == POSTGRESQL:
        return Postgres(request.getfixturevalue("postgres"))
    return BACKENDS[request.param]()
