"""A disk that is full for a while: said, waited out, and nothing is lost. On a real small file system where one can be
mounted."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.backends import files
from tests.faults.small import PAIR, Client, Life, contributed, create, live, replayed_digest, run_file
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.blobs import DiskRefused
from zowarmup.server.store.ledger import Ledger


class Patient(Client):
    """Tries again where the coordinator cannot write, as a real client does."""

    refused = 0

    async def take_part(self, server: Life) -> None:
        while True:
            try:
                return await super().take_part(server)
            except (Unavailable, DiskRefused):
                self.refused += 1
                await asyncio.sleep(0.02)


@pytest.fixture(params=["1 MB", "4 MB"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    size = request.param.replace(" MB", "m")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "zowarmup-test", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs to be root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    ballast = folder / "ballast"
    piece = 1 << 20
    with ballast.open("wb", buffering=0) as file:
        while piece:
            try:
                file.write(bytes(piece))
            except OSError:
                piece //= 2
    return ballast


def test_a_full_file_system_is_said_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir = small_disk / "server"
    create(data_dir, run_file(PAIR))
    clients = [Patient(name, tier) for name, tier in PAIR.items()]
    sentences: list[str] = []

    async def lead() -> str:
        stores = files(data_dir)
        life = Life.start(stores, retry_s=0.02)
        running = asyncio.create_task(live(life, clients))
        for version in (2, 8, 17):
            while life.coordinator.state.version < version:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.001)
            ballast = await asyncio.to_thread(fill, small_disk)
            for _ in range(500):
                if told := str(life.coordinator.trouble):
                    sentences.append(told)
                    break
                await asyncio.sleep(0.01)
            ballast.unlink()
        await asyncio.wait_for(running, 60)
        assert str(life.coordinator.trouble) == "", "it is over and said to be"
        digest = life.coordinator.state.digest
        stores.log.close()
        return digest

    digest = asyncio.run(lead())
    assert sentences, "the disk was full at least once"
    assert all(s.startswith("waiting: the disk refuses: ") and "make room" in s for s in sentences)
    assert "the disk refuses: " in caplog.text
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    kept = contributed(ledger)
    ledger.close()
    assert all((c.name, made) in kept for c in clients for made in c.acknowledged.values())
    assert replayed_digest(data_dir) == digest
    calm = small_disk / "calm"
    create(calm, run_file(PAIR))
    undisturbed = [Client(name, tier) for name, tier in PAIR.items()]
    asyncio.run(live_on(calm, undisturbed))
    assert replayed_digest(calm) == digest, "the model is the one of an undisturbed run"


async def live_on(data_dir: Path, clients: list[Client]) -> None:
    stores = files(data_dir)
    await live(Life.start(stores), clients)
    stores.log.close()
