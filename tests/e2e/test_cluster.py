"""Three coordinators over a real PostgreSQL: one is stopped while it leads, one is killed, and the run goes on."""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.faults import shared_chaos
from tests.faults.chaos import RUN, replayed
from tests.faults.shared_chaos import COORDINATORS, FLEET, LED, SharedFleet
from tests.patience import PATIENCE
from zowarmup.cli.session.session import Session
from zowarmup.cli.stored_run import backup, export, fsck, restore, write_page
from zowarmup.common.system.command import NoAnswer
from zowarmup.lab.runs.stored_runs import stored_runs
from zowarmup.server.opening import LOOK_S
from zowarmup.server.store.archive import LEDGER, OPERATOR_CREDENTIAL


def until(fleet: SharedFleet, holds: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + 60 * PATIENCE
    while not holds():
        assert time.monotonic() < ends_at, f"waited in vain for {what}"
        assert not fleet.failed(), fleet.failed()
        time.sleep(LOOK_S / 10)


def leader(fleet: SharedFleet, epoch: int) -> str:
    """Who leads in an epoch; empty as long as nobody does."""
    for name in COORDINATORS:
        if any(int(found) == epoch for said in fleet.said_by(name) for _, found in LED.findall(said)):
            return name
    return ""


def committed(fleet: SharedFleet, name: str) -> int:
    try:
        with Session(fleet.addresses[name], deadline_s=5.0) as session:
            return session.status().version
    except NoAnswer:
        return -1


def read_by_its_data_directory(fleet: SharedFleet, out: Path, digest: str) -> None:
    """By that of any coordinator, all of which are stopped; and moved to another schema, and to files."""
    data_dir = fleet.folder / COORDINATORS[1]
    assert not (data_dir / LEDGER).exists()
    (run,), unreadable = stored_runs([fleet.folder])
    assert (run.state, run.digest, unreadable) == ("finished", digest, [])
    assert export(data_dir, None, out / "model").digest == digest
    assert write_page(data_dir, out / "page.html").stat().st_size > 10_000
    checked = fsck(data_dir, False)
    assert (checked.problems, checked.digest) == ([], digest)
    moved = fleet.store(fleet.database.port)
    assert backup(data_dir, out / "end").digest == fsck(out / "end", False).digest == digest
    assert restore(out / "copy", f"{moved.url}?schema=moved").version < run.version
    assert restore(out / "end", f"{moved.url}?schema=ended").digest == digest


def test_a_run_outlives_its_leaders(tmp_path: Path, prepared_models: Path) -> None:
    many = replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=120))
    fleet = SharedFleet(tmp_path / "fleet", prepared_models, many)
    try:
        for name in COORDINATORS:
            fleet.start(name)
        for name in FLEET:
            fleet.join(name)
        until(fleet, lambda: leader(fleet, 1) != "", "a leader")
        first = leader(fleet, 1)
        others = [name for name in COORDINATORS if name != first]
        until(fleet, lambda: committed(fleet, others[0]) >= 5, "rounds, as a front end tells of them")
        credential = (fleet.folder / others[1] / OPERATOR_CREDENTIAL).read_text().strip()
        with Session(fleet.addresses[others[1]], credential=credential) as session:
            session.pause("a look around")
            until(fleet, lambda: session.status().paused == "a look around", "the pause, by way of the leader")
            assert len(session.status().clients) == len(FLEET), "of all coordinators"
            until(fleet, lambda: not session.status().participants, "the end of the round in progress")
            paused_at = session.status().version
            assert backup(fleet.folder / others[1], tmp_path / "copy").version == paused_at, "while they go on"
            session.resume()
        fleet.signal(first, signal.SIGSTOP)
        until(fleet, lambda: leader(fleet, 2) != "", "another leader")
        second = leader(fleet, 2)
        assert second != first
        reached = committed(fleet, second)
        until(fleet, lambda: committed(fleet, second) > reached + 5, "more rounds")
        fleet.signal(first, signal.SIGCONT)
        until(fleet, lambda: "begins anew as a front end" in fleet.said(first), "the first to learn that it is fenced")
        fleet.kill(second)
        until(fleet, lambda: leader(fleet, 3) != "", "a third leader")
        fleet.start(second)
        until(fleet, lambda: fleet.final() is not None, "the end")
        digest = fleet.final()
        fleet.processes.stop()
        assert fleet.acknowledged() <= fleet.stored() and not fleet.rivals()
        assert replayed(fleet.folder / COORDINATORS[0]) == digest
        read_by_its_data_directory(fleet, tmp_path, str(digest))
    finally:
        fleet.processes.stop()
        fleet.close()


def test_a_schedule_of_chaos(tmp_path: Path, prepared_models: Path) -> None:
    (outcome,) = shared_chaos.run(1, 7, tmp_path, prepared_models)
    assert outcome.good, outcome.why
