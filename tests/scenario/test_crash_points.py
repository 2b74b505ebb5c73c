"""A crash at each single write of a run of 30 rounds: the same model comes out, and nothing acknowledged is lost."""

import asyncio
import collections
import functools
import random
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.faults.backends import Backend, Files, files
from tests.faults.crash import CHANGES, KEEP, PLACES, Crash, Fuse, crashing
from tests.faults.small import (
    PAIR,
    TRIO,
    Client,
    Fleet,
    Life,
    NoEvaluator,
    OneByOne,
    contributed,
    create,
    live,
    replayed_digest,
    run_file,
)
from zowarmup.common.settings.run import RunFile
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.store.archive import LEDGER, open_archive
from zowarmup.server.store.ledger import Ledger

pytestmark = pytest.mark.backends("files")
# Points are shared out over so many tests, so that a failure comes soon and says which part of the run it is.
SHARES = 6
FLEETS = {"pair": PAIR, "trio": TRIO}


@dataclass(frozen=True)
class Outcome:
    digest: str
    version: int
    lives: int
    lost: int
    places: tuple[str, ...]
    appends: int


def outcome(
    folder: Path,
    fleet: Fleet,
    at: Collection[int] = (),
    kind: type[Coordinator] = OneByOne,
    settings: RunFile | None = None,
    evaluator: Callable[[], Evaluator] = NoEvaluator,
    backend: Backend | None = None,
) -> Outcome:
    """The run in `folder`, with crashes at the numbered places. It is in files by default, and afterwards always."""
    data_dir, backend = folder / "server", backend or Files()
    create(data_dir, settings or run_file(fleet), backend)
    fuse = Fuse(data_dir, at, backend)
    clients = [Client(name, tier) for name, tier in fleet.items()]

    async def one_life() -> tuple[str, int]:
        stores = crashing(backend.open(data_dir), fuse)
        try:
            server = Life.start(stores, kind, evaluator)
            await asyncio.wait_for(live(server, clients), 60)
            return server.coordinator.state.digest, server.coordinator.state.version
        finally:
            stores.log.close()

    lives = 0
    while True:
        lives += 1
        try:
            digest, version = asyncio.run(one_life())
            break
        except Crash:
            fuse.restart()
    backend.export(data_dir)
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    kept = contributed(ledger)
    ledger.close()
    lost = sum((client.name, made) not in kept for client in clients for made in client.acknowledged.values())
    assert replayed_digest(data_dir) == digest
    assert {client.replica.digest().hex() for client in clients if client.replica} == {digest}
    return Outcome(digest, version, lives, lost, tuple(fuse.places), fuse.appends)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the system has such a place: what is tried is the order of writes, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def test_a_crash_within_a_write_to_what_has_been_dropped_leaves_an_image(folder: Path) -> None:
    create(folder / "server", run_file(PAIR))
    stores, fuse = files(folder / "server"), Fuse(folder / "server", [1], Files())
    with pytest.raises(Crash):
        crashing(stores, fuse).uploads.write("dropped", 7, b"more")
    stores.log.close()
    fuse.restart()
    assert open_archive(folder / "server").state.version == 0


@functools.cache
def undisturbed(fleet: str) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        return outcome(Path(name), FLEETS[fleet])


@pytest.mark.backends("files", "memory")
def test_the_undisturbed_run_has_the_writes_that_crashes_are_tried_at(folder: Path, backend: Backend) -> None:
    calm = undisturbed("pair")
    again = outcome(folder, PAIR, backend=backend)
    assert replace(again, places=()) == replace(calm, places=()), "whatever keeps it"
    assert sorted(again.places) == sorted(calm.places)
    assert calm.lives == 1 and calm.version == 30 and calm.lost == 0
    counted = collections.Counter(calm.places)
    assert counted["append: within"] == counted["append: after"] == calm.appends >= 90
    assert set(counted) == PLACES - {KEEP}, "no optimizer state is kept"
    for what in CHANGES:
        assert counted[f"blobs {what}"] >= 5 and counted[f"uploads {what}"] >= 5, what


@pytest.mark.parametrize("share", range(SHARES))
def test_a_crash_at_any_write_leads_to_the_same_model(folder: Path, backend: Backend, share: int) -> None:
    calm = undisturbed("pair")
    tried = 0
    for place in range(1 + share, len(calm.places) + 1, SHARES):
        crashed = outcome(folder / str(place), PAIR, [place], backend=backend)
        told = f"a crash at place {place} of {len(calm.places)} ({calm.places[place - 1]})"
        # With the last file off the disk the run is over, and may be seen to be before its coordinator dies.
        assert crashed.lives == 2 or (crashed.lives == 1 and place == len(calm.places)), told
        assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0), told
        shutil.rmtree(folder / str(place))
        tried += 1
    assert tried >= len(calm.places) // SHARES


@pytest.mark.backends("files", "memory")
@pytest.mark.parametrize("seed", range(6))
def test_many_crashes_in_one_run_with_shared_writes_lead_to_the_same_model(
    folder: Path, backend: Backend, seed: int
) -> None:
    calm = undisturbed("trio")
    places = random.Random(seed).sample(range(1, len(calm.places) * 2 // 3), 25)
    crashed = outcome(folder / "many", TRIO, places, Coordinator, backend=backend)
    assert crashed.lives >= 15, "commands that share a write make fewer places"
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
