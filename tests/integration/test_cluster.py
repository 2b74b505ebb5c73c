"""Two coordinators of one run in one process, over stores in memory: who leads answers, and who has lost the lease begins anew.

What leads is `zowarmup.server.leadership`, here and where a coordinator is alone; each time that one is at work is a
`zowarmup.server.life`, and what it shows of itself is in `zowarmup.server.shown`."""

import asyncio
import contextlib
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.chaos import RUN
from tests.prepared import prepared
from zowarmup.cli import certificates
from zowarmup.cli.session.session import Session
from zowarmup.common.settings.run import Server
from zowarmup.common.system.command import CommandError, NoAnswer
from zowarmup.data import load
from zowarmup.lab.processes import free_port
from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.node import SharedStore
from zowarmup.server.cluster.uploads import SpooledUploads
from zowarmup.server.rpc.endpoints import endpoint_of
from zowarmup.server.served import Served, Serving, Shared
from zowarmup.server.serving import serve
from zowarmup.server.setup.model_cache import cached
from zowarmup.server.setup.prepare import Children
from zowarmup.server.store.archive import OPERATOR_CREDENTIAL
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import MemorySharedBlobs
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.event_log import MemorySharedLog, StoreAway
from zowarmup.server.store.lease import Holder, MemoryLease
from zowarmup.server.telemetry.endpoints import HttpEndpoint

LEASE_S = 0.5
SERVER = Server(address="127.0.0.1:0", web_address="")


class Store:
    """What both share."""

    def __init__(self) -> None:
        self.lease = MemoryLease(time.monotonic)
        self.log = MemorySharedLog(self.lease.leading)
        self.blobs, self.uploads = MemorySharedBlobs(self.lease.leading), MemorySharedBlobs(self.lease.leading)

    def seen_by(self, folder: Path) -> SharedStore:
        blobs = CachedBlobs(self.blobs, BlobFiles(folder / "blobs"))
        return SharedStore(
            self.log, blobs, SpooledUploads(BlobFiles(folder / "uploads"), self.uploads), self.uploads, self.lease
        )


@dataclass
class One:
    """A coordinator. `lives`: what it has served, the present life last."""

    name: str
    folder: Path
    lives: list[Served] = field(default_factory=list)
    stopped: "asyncio.Future[int] | None" = None

    @property
    def front_end(self) -> FrontEnd:
        coordinator = self.lives[-1].coordinator
        assert isinstance(coordinator, FrontEnd)
        return coordinator

    def session(self) -> Session:
        credential = (self.folder / OPERATOR_CREDENTIAL).read_text().strip()
        return Session(f"127.0.0.1:{self.lives[-1].port}", deadline_s=10.0, credential=credential)


@contextlib.asynccontextmanager
async def at_work(
    store: Store,
    name: str,
    folder: Path,
    cache: Path,
    server: Server = SERVER,
    before: Callable[[], None] = lambda: None,
    shown: HttpEndpoint | None = None,
) -> AsyncIterator[One]:
    one, way = One(name, folder / name), endpoint_of(server, server.address, False)
    one.folder.mkdir()
    run = replace(RUN, server=server)
    serving = Serving(
        run_file=run,
        held_out=load(run.evaluation.data),
        data_dir=one.folder,
        prepare=lambda spec, seed, folder: cached(spec, seed, cache, Children()),
        way=way,
        shown=shown,
        shared=Shared(
            open=lambda took: before() or store.seen_by(one.folder),  # type: ignore[func-returns-value]
            holder=lambda way, port: Holder(
                name=name, address=f"127.0.0.1:{port}", secret=name[0] * 64, authority=way.trusted.decode()
            ),
            lease_s=LEASE_S,
        ),
    )
    one.stopped = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(serving, one.stopped, one.lives.append))
    try:
        while not one.lives:
            assert not task.done(), task.result()
            await asyncio.sleep(0.01)
        yield one
    finally:
        if not one.stopped.done():
            one.stopped.set_result(0)
        assert await task == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def cache(prepared_models: Path) -> Path:
    prepared(RUN, prepared_models)
    return prepared_models


def test_a_front_end_lets_the_leader_answer_and_takes_over_when_that_leaves(tmp_path: Path, cache: Path) -> None:
    async def script() -> None:
        store = Store()
        async with at_work(store, "a", tmp_path, cache) as first:
            await until(lambda: first.front_end.leads)
            async with at_work(store, "b", tmp_path, cache) as second:
                assert not second.front_end.leads
                with second.session() as session:
                    await asyncio.to_thread(session.pause, "a look around")
                    status = await asyncio.to_thread(session.status)
                assert status.paused == "a look around" == second.front_end.state.paused
                assert first.front_end.state.digest == second.front_end.state.digest == status.digest
                with first.session() as session:
                    assert (await asyncio.to_thread(session.status)).paused == "a look around"
                assert first.stopped is not None
                first.stopped.set_result(0)
                await until(lambda: second.front_end.leads)
                with second.session() as session:
                    await asyncio.to_thread(session.resume)
                assert not second.front_end.state.paused and len(second.lives) == 1

    asyncio.run(script())


def test_a_front_end_shows_itself_and_the_run_once_it_leads(tmp_path: Path, cache: Path) -> None:
    async def script() -> None:
        store, shown = Store(), HttpEndpoint("127.0.0.1", free_port())

        async def told(name: str) -> list[float]:
            def scrape() -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{shown.port}/metrics") as answer:
                    return str(answer.read().decode())

            families = text_string_to_metric_families(await asyncio.to_thread(scrape))
            return [sample.value for family in families for sample in family.samples if sample.name == name]

        async with at_work(store, "a", tmp_path, cache) as first:
            await until(lambda: first.front_end.leads)
            async with at_work(store, "b", tmp_path, cache, shown=shown) as second:
                assert await told("zowarmup_leads") == [0] and not await told("zowarmup_model_version")
                rounds = await told("zowarmup_rounds_total")
                assert rounds and not any(rounds), "at zero, and not absent"
                assert first.stopped is not None
                first.stopped.set_result(0)
                await until(lambda: second.front_end.leads)
                assert await told("zowarmup_leads") == [1] and await told("zowarmup_model_version") == [0]
                assert await told("zowarmup_rounds_total") == rounds
            assert not await asyncio.to_thread(answers, shown.port), "it has let go of the port"

    asyncio.run(script())


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@pytest.mark.parametrize(("private", "asked"), [(True, False), (False, False), (True, True)])
def test_coordinators_trust_each_other_by_what_the_lease_says(
    tmp_path: Path, cache: Path, private: bool, asked: bool
) -> None:
    """`private`: the authority lies beside the certificate, and is not one that everybody knows; `asked`: clients, and so front ends,
    must show certificates."""
    made = tmp_path / "certs"
    certificates.init(made, ["127.0.0.1"])
    authority = (made / "ca.crt").read_bytes()
    server = replace(
        SERVER, tls_certificate=str(made / "server.crt"), tls_key=str(made / "server.key"), enrolment="open"
    )
    if asked:
        server = replace(server, client_ca=str(made / "ca.crt"))
    if not private:
        (made / "ca.crt").unlink()

    async def script() -> None:
        store = Store()
        async with (
            at_work(store, "a", tmp_path, cache, server) as first,
            at_work(store, "b", tmp_path, cache, server) as second,
        ):
            await until(lambda: first.front_end.leads)
            leading = store.lease.look()
            assert (
                leading is not None
                and bool(leading.holder.authority)
                and private == (leading.holder.authority.encode() == authority)
            )
            await second.front_end._ask(())

    asyncio.run(script())


def test_a_stranger_is_no_operator_at_a_front_end_either(tmp_path: Path, cache: Path) -> None:
    async def script() -> None:
        store = Store()
        async with at_work(store, "a", tmp_path, cache), at_work(store, "b", tmp_path, cache) as second:
            session = Session(f"127.0.0.1:{second.lives[-1].port}", credential="f" * 64)
            with session, pytest.raises(CommandError, match="operator's credential"):
                await asyncio.to_thread(session.pause, "mischief")

    asyncio.run(script())


def test_a_leader_that_has_lost_the_lease_begins_anew_and_follows(tmp_path: Path, cache: Path) -> None:
    async def script() -> None:
        store = Store()
        async with at_work(store, "a", tmp_path, cache) as first:
            await until(lambda: first.front_end.leads)
            epoch = first.front_end.end and 1
            store.lease.give_up(epoch)
            rival = store.lease.take(Holder(name="rival", address="127.0.0.1:1", secret="e" * 64), 3600.0)
            assert rival is not None
            await until(lambda: len(first.lives) == 2)
            assert not first.front_end.leads
            with first.session() as session, pytest.raises(NoAnswer):
                await asyncio.to_thread(session.status)  # the rival does not answer
            store.lease.give_up(rival.epoch)
            await until(lambda: first.front_end.leads)
            with first.session() as session:
                assert (await asyncio.to_thread(session.status)).version == 0

    asyncio.run(script())


def test_a_start_waits_for_a_store_that_is_away_and_then_listens_where_it_should(tmp_path: Path, cache: Path) -> None:
    async def script() -> None:
        store, tries = Store(), [0]
        port = free_port()

        def sometimes() -> None:
            tries[0] += 1
            if tries[0] < 3:
                raise StoreAway("the store is away")

        server = replace(SERVER, address=f"127.0.0.1:{port}")
        async with at_work(store, "a", tmp_path, cache, server, before=sometimes) as first:
            assert first.lives[-1].port == port and tries[0] == 3

    asyncio.run(script())
