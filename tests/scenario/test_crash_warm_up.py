"""A crash in a warm-up that has more to remember than weights: a server optimizer's moments, and losses that decide when
it ends. The same model comes out, and the pivot is at the same version for the same reason."""

import asyncio
import collections
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings
from tests.faults.backends import Backend
from tests.faults.crash import KEEP, PLACES, CrashingBlobs, Fuse
from tests.faults.small import LAYOUT, PAIR, Client, Life, create, live, run_file
from tests.scenario.test_crash_points import Outcome, folder, outcome
from zowarmup.common.messages.values import Work
from zowarmup.common.settings.run import RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import BLOBS, LEDGER, back_up, open_archive
from zowarmup.server.store.blobs import DiskRefused
from zowarmup.server.store.fsck import check, repair
from zowarmup.server.store.ledger import Ledger

__all__ = ["folder"]  # the fixture
pytestmark = pytest.mark.backends("files")
PIVOT, ROUNDS = 5, 3
EVERY = 7  # so many of the ordinary places are passed over for one that is tried


def settings(algorithm: str = "fedadam", rounds: int = ROUNDS) -> RunFile:
    """The loss of the scripted clients falls, but not by half in two rounds: the warm-up ends after the fifth."""
    base = run_file(PAIR)
    warmup = warmup_settings(
        rounds=30,
        clients_per_round=1,
        quorum=1.0,
        deadline_s=3600.0,
        learn_deadline=False,
        algorithm="fedadam" if algorithm == "fedadam" else "fedyogi",
        server_rate=0.02,
        pivot="auto",
        patience=2,
        least_improvement=0.5,
    )
    return replace(base, warmup=warmup, zeroth_order=replace(base.zeroth_order, rounds=rounds))


def events(data_dir: Path) -> list[ev.Event]:
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    try:
        return [event for _, event in ledger.read()]
    finally:
        ledger.close()


def pivot(data_dir: Path) -> ev.Pivoted:
    (event,) = [event for event in events(data_dir) if isinstance(event, ev.Pivoted)]
    return event


def optimizers(data_dir: Path) -> list[str]:
    committed = [event for event in events(data_dir) if isinstance(event, ev.Committed)]
    return [event.snapshot.optimiser for event in committed if event.snapshot]


def test_a_crash_at_the_writes_of_the_warm_up_leads_to_the_same_model(folder: Path, backend: Backend) -> None:
    calm = outcome(folder / "calm", PAIR, settings=settings())
    ended, kept = pivot(folder / "calm" / "server"), optimizers(folder / "calm" / "server")
    assert ended.version == PIVOT and ended.reason.startswith("the held-out loss has not fallen by 50 %: ")
    assert len(set(kept)) == len(kept) == PIVOT and all(kept)
    counted = collections.Counter(calm.places)
    assert set(counted) == PLACES and counted[KEEP] == PIVOT
    for place, what in enumerate(calm.places, 1):
        if KEEP not in calm.places[max(0, place - 2) : place] and place % EVERY:
            continue
        data_dir = folder / str(place) / "server"
        crashed: Outcome = outcome(folder / str(place), PAIR, [place], settings=settings(), backend=backend)
        told = f"a crash at place {place} of {len(calm.places)} ({what})"
        assert (crashed.lives, crashed.digest, crashed.version, crashed.lost) == (2, calm.digest, calm.version, 0), told
        assert pivot(data_dir) == ended and optimizers(data_dir) == kept, told
        shutil.rmtree(folder / str(place))


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi"])
def test_after_the_pivot_no_moments_are_kept(folder: Path, backend: Backend, algorithm: str) -> None:
    outcome(folder, PAIR, settings=settings(algorithm), backend=backend)
    data_dir = folder / "server"
    state = open_archive(data_dir).state
    assert all(optimizers(data_dir)) and not any(snapshot.optimiser for snapshot in state.snapshots.values())
    named = {state.program.sha256, *state.snapshot_blobs}
    assert {path.name for path in (data_dir / BLOBS).iterdir() if path.is_file()} == named


class Enough(Exception):
    """The run is far enough for this test."""


async def warm_up(data_dir: Path, versions: int, backend: Backend) -> None:
    """Until so many versions of the warm-up are there and nothing of the next."""
    stores = backend.open(data_dir)
    server = Life.start(stores)

    class Tired(Client):
        async def _contribute(self, server: Life, work: Work) -> None:
            if work.version < versions:
                return await super()._contribute(server, work)
            while len(
                (state := server.coordinator.state).snapshots
            ) > state.run_file.server.keep_snapshots or server.stale({state.program.sha256, *state.snapshot_blobs}):
                await asyncio.sleep(0.002)
            raise Enough

    try:
        await live(server, [Tired(name, tier) for name, tier in PAIR.items() if name.startswith("high")])
    except Enough:
        pass
    finally:
        stores.log.close()


def in_warm_up(folder: Path, backend: Backend) -> Path:
    data_dir = folder / "server"
    create(data_dir, settings(), backend)
    asyncio.run(asyncio.wait_for(warm_up(data_dir, 3, backend), 60))
    backend.export(data_dir)
    return data_dir


def test_fsck_and_backup_know_the_moments(folder: Path, backend: Backend) -> None:
    data_dir = in_warm_up(folder, backend)
    state = open_archive(data_dir).state
    assert (state.version, state.phase) == (3, "warm-up")
    moments = {version: snapshot.optimiser for version, snapshot in state.snapshots.items()}
    assert sorted(moments) == [2, 3] and all(moments.values()), "keep_snapshots = 2"
    on_disk = {path.name: path.stat().st_size for path in (data_dir / BLOBS).iterdir() if path.is_file()}
    assert set(on_disk) == {state.program.sha256, *state.snapshot_blobs}
    assert {on_disk[sha256] for sha256 in moments.values()} == {8 * LAYOUT.trainable}
    assert not check(data_dir).problems
    back_up(data_dir, folder / "copy")
    assert not check(folder / "copy").problems
    assert (folder / "copy" / BLOBS / moments[3]).read_bytes() == (data_dir / BLOBS / moments[3]).read_bytes()

    (folder / "copy" / BLOBS / moments[3]).write_bytes(b"damaged")
    (found,) = check(folder / "copy").problems[:1]
    assert found.startswith("the snapshot of version 3: of the warm-up's optimizer ") and found.endswith("is damaged")
    assert repair(folder / "copy").version == 2
    assert open_archive(folder / "copy").state.snapshot.optimiser == moments[2]


def test_moments_that_the_disk_refuses_are_written_when_it_takes_them(folder: Path, backend: Backend) -> None:
    calm = outcome(folder / "calm", PAIR, settings=settings())
    told: list[str] = []

    class Full(CrashingBlobs):
        def keep(self, part: str) -> str:
            if len(told) < 3:
                told.append(str(life.coordinator.trouble))
                raise DiskRefused("there is no room")
            return super().keep(part)

    data_dir = folder / "server"
    create(data_dir, settings(), backend)
    stores = backend.open(data_dir)
    life = Life.start(replace(stores, blobs=Full(stores.blobs, "blobs", Fuse(data_dir, (), backend))), retry_s=0.005)
    asyncio.run(asyncio.wait_for(live(life, [Client(name, tier) for name, tier in PAIR.items()]), 60))
    stores.log.close()
    assert told[0] == "" and len(told) == 3
    assert all("the disk refuses: the aggregate of round 1: there is no room" in sentence for sentence in told[1:])
    assert str(life.coordinator.trouble) == "" and life.coordinator.state.digest == calm.digest
    assert not stores.blobs.parts()
