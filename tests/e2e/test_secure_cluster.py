"""Secure aggregation with three coordinators over a real PostgreSQL, of which two are killed while they lead, in the midst of a round."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.test_secure_aggregation import METHODS, compared, run_file
from tests.faults.shared_chaos import COORDINATORS, SharedFleet
from zowarmup.cli.session.session import Session
from zowarmup.cli.stored_run import fsck
from zowarmup.common.messages.masking import Keys
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import State
from zowarmup.server.store.postgres.stores import PostgresStores

CLIENTS = 4
KILLED = (Stage.MASKED, Stage.REVEALED)


class SecureFleet(SharedFleet):
    """Whose coordinators die as `dying_coordinator` says; what its clients add to the sums they write down in `known`."""

    def __init__(self, folder: Path, model_cache: Path) -> None:
        super().__init__(folder, model_cache, run_file(CLIENTS, rounds=3, **METHODS["shared directions"]))
        self.known = folder / "known"
        self.known.mkdir()

    def start(self, name: str) -> None:
        options = [str(self.known), ",".join(KILLED), str(self.folder / f"{name}.toml")]
        options += ["--data-dir", str(self.folder / name), "--address", self.addresses[name]]
        options += ["--advertise", self.addresses[name], "--web-address", "", "--model-cache", str(self._model_cache)]
        self.begin(name, "tests.e2e.dying_coordinator", options)

    def join(self, name: str) -> None:
        number = name.removeprefix("low-")
        servers = ",".join(self.addresses.values())
        options = ["--server", servers, "--data", f"digits:{number}/{CLIENTS}", "--tier", "low", "--name", name]
        options += ["--state-dir", str(self.folder / "clients" / name)]
        self.begin(name, "tests.e2e.dying_client", ["None", str(self.known), *options])


@pytest.fixture
def fleet(tmp_path: Path, prepared_models: Path) -> Iterator[SecureFleet]:
    made = SecureFleet(tmp_path / "fleet", prepared_models)
    try:
        yield made
    finally:
        made.processes.stop()
        made.close()


def test_a_round_outlives_its_leaders_and_no_coordinator_is_told_what_one_device_gave(fleet: SecureFleet) -> None:
    names = [f"low-{number}" for number in range(1, CLIENTS + 1)]
    for name in (*COORDINATORS, *names):
        fleet.start(name) if name in COORDINATORS else fleet.join(name)

    def over() -> bool:
        assert not fleet.failed(), fleet.failed()
        return fleet.final() is not None

    wait_until(over, 120, "the end of the run")
    (address,) = (fleet.addresses[name] for name in COORDINATORS if f"{name}.1" not in _ended(fleet))
    with Session(address) as session:
        wait_until(lambda: session.status().replicas.agree == tuple(names), 30, "all replicas to be the run's own")
        digest = session.status().digest
    fleet.processes.stop()
    killed = [int((fleet.known / stage).read_text()) for stage in KILLED]
    assert not (fleet.known / "scalars").exists() and not fleet.rivals()

    stores = PostgresStores.open(fleet.store(fleet.database.port), reading=True)
    try:
        events = [event for _, event in stores.log.read()]
    finally:
        stores.close()
    assert all(isinstance(event.contribution, Keys) for event in events if isinstance(event, ev.Contributed))
    state: State | None = None
    ended = {}
    for event in events:
        state = evolve(state, event)
        if isinstance(event, ev.RoundClosed):
            compared(state, fleet.known)
        if isinstance(event, ev.RoundClosed | ev.RoundAbandoned):
            ended[event.round] = type(event)
    assert set(killed) <= set(ended), "each round that lost its leader came to an end"
    checked = fsck(fleet.folder / COORDINATORS[0], False)
    assert (checked.problems, checked.digest) == ([], digest)


def _ended(fleet: SecureFleet) -> set[str]:
    return {ended.name for ended in fleet.processes.ended()}
