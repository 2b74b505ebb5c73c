"""`make chaos STORE=postgresql`: the same as `chaos`, of three coordinators over PostgreSQL and ten clients.

Coordinators are killed and stopped (SIGSTOP) for longer than a lease lasts; clients are killed; the links between any two, to
clients and to the database alike, are cut, swallow everything or are slow; the database is restarted, cleanly or as by a crash, and
its connections are killed. What must hold beside what holds of one coordinator: no two of them ever lead in one epoch.
"""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg

from tests.faults.chaos import LIMIT_S, RUN, Outcome, replayed
from tests.faults.lives import Lives
from tests.faults.proxy import Link
from tests.postgres.server import PostgresServer
from zowarmup.common.settings.run import RunFile
from zowarmup.common.settings.store import StoreAddress
from zowarmup.lab.demo.settings import to_toml
from zowarmup.server.core import events as ev
from zowarmup.server.store.postgres.stores import PostgresStores

COORDINATORS = ("one", "two", "three")
FLEET = {"high-1": "high", "high-2": "high", **{f"low-{number}": "low" for number in range(1, 9)}}
LONG = replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=75))
"""So that it is still going on when the last fault comes, more often than not."""
LED = re.compile(r"this coordinator leads from now on \((\S+), epoch (\d+)\)")
LEASE_S = 2.0


class SharedFleet(Lives):
    """Coordinators that share a database, each behind a link to it, too."""

    def __init__(self, folder: Path, model_cache: Path, run: RunFile = LONG) -> None:
        super().__init__(folder, COORDINATORS, FLEET)
        self._model_cache = model_cache
        self.database = PostgresServer()
        self.to_database = {name: Link(f"127.0.0.1:{self.database.port}") for name in COORDINATORS}
        for name in COORDINATORS:
            server = replace(run.server, store=str(self.store(self.to_database[name].port)), lease_s=LEASE_S)
            kept = replace(run, server=server)
            (folder / f"{name}.toml").write_text(to_toml(kept))

    def store(self, port: int) -> StoreAddress:
        """The run's, at a port of loopback."""
        return self.database.address("chaos", port=port)

    def start(self, name: str) -> None:
        """A coordinator."""
        options = [str(self.folder / f"{name}.toml"), "--data-dir", str(self.folder / name), "--address"]
        options += [self.addresses[name], "--advertise", self.links[name].address, "--web-address", "", "--verbose"]
        self.begin(name, "zowarmup.server.main", [*options, "--model-cache", str(self._model_cache)])

    def stored(self) -> set[tuple[str, int]]:
        """(client, round) of every contribution in the log."""
        stores = PostgresStores.open(self.store(self.database.port), reading=True)
        try:
            return {(e.client, e.contribution.round) for _, e in stores.log.read() if isinstance(e, ev.Contributed)}
        finally:
            stores.close()

    def rivals(self) -> list[str]:
        """Epochs in which more than one coordinator has led, or one twice."""
        led = [found for name in COORDINATORS for found in self._led(name)]
        return sorted({epoch for epoch in led if led.count(epoch) > 1})

    def changes(self) -> int:
        """How often the lease has changed hands."""
        return sum(len(self._led(name)) for name in COORDINATORS)

    def every_link(self) -> list[Link]:
        return [*self.links.values(), *self.to_database.values()]

    def close(self) -> None:
        super().close()
        self.database.close()

    def _led(self, name: str) -> list[str]:
        return [epoch for said in self.said_by(name) for _, epoch in LED.findall(said)]


def carry_out(seed: int, folder: Path, model_cache: Path) -> Outcome:
    """One schedule, to its end."""
    chance, start = random.Random(seed), time.monotonic()
    fleet = SharedFleet(folder, model_cache)
    told: list[str] = []
    digest, why = None, ""
    try:
        try:
            for name in COORDINATORS:
                fleet.start(name)
            for name in FLEET:
                fleet.join(name)
            for fault in _schedule(chance, fleet):
                time.sleep(chance.uniform(0.1, 3.0))
                if (digest := fleet.final()) is not None:
                    break
                told.append(f"{time.monotonic() - start:.1f} s: {fault()}")
            fleet.mend()
            while digest is None and not why:
                digest, why = fleet.final(), fleet.failed()
                if time.monotonic() > start + 2 * LIMIT_S:
                    why = f"not finished after {2 * LIMIT_S:.0f} s"
                time.sleep(0.2)
        finally:
            fleet.processes.stop()
        fleet.mend()
        acknowledged, stored = fleet.acknowledged(), fleet.stored()
        found = replayed(fleet.folder / COORDINATORS[0])
    finally:
        fleet.close()
    lost, rivals = acknowledged - stored, fleet.rivals()
    told.append(f"the lease was taken {fleet.changes()} times")
    equal = digest is not None and digest == found and not rivals
    why = why or (f"lost: {sorted(lost)}" if lost else "") or (f"two led in epochs {rivals}" if rivals else "")
    why = why or ("" if equal else f"{digest} is not {found}")
    return Outcome(
        seed, digest is not None, len(acknowledged), len(lost), equal, tuple(told), time.monotonic() - start, why
    )


def _schedule(chance: random.Random, fleet: SharedFleet) -> Iterator[Callable[[], str]]:
    """What will be done to a run: each kind now and then, and coordinators most of all."""

    def kill_coordinator() -> str:
        for name in (names := chance.sample(COORDINATORS, chance.choice([1, 1, 2, 3]))):
            fleet.kill(name)
        time.sleep(away := chance.choice([0.0, chance.uniform(0, 5.0)]))
        for name in names:
            fleet.start(name)
        return f"coordinators {', '.join(names)} killed, away for {away:.1f} s"

    def stop_coordinator() -> str:
        fleet.signal(name := chance.choice(COORDINATORS), signal.SIGSTOP)
        time.sleep(asleep := chance.uniform(0.5, 3 * LEASE_S))
        fleet.signal(name, signal.SIGCONT)
        return f"coordinator {name} asleep for {asleep:.1f} s"

    def kill_client() -> str:
        for name in (names := chance.sample(list(FLEET), chance.choice([1, 1, 2, 4]))):
            fleet.kill(name)
        time.sleep(chance.uniform(0, 1.0))
        for name in names:
            fleet.join(name)
        return f"{', '.join(names)} killed"

    def trouble(links: dict[str, Link], what: str) -> str:
        link = links[name := chance.choice(COORDINATORS)]
        kind = chance.choice(["cut", "swallows everything", "reset", "slow"])
        if kind == "reset":
            link.reset_after(chance.randrange(10, 60_000))
        elif kind == "slow":
            link.delay_s = chance.choice([0.0, 0.01, 0.05])
        else:
            link.cut() if kind == "cut" else link.black_hole()
            time.sleep(chance.uniform(0.2, 2 * LEASE_S))
            link.mend()
        return f"the link to {what} {name}: {kind}"

    def cut() -> str:
        return trouble(fleet.links, "coordinator")

    def cut_off() -> str:
        return trouble(fleet.to_database, "the database from coordinator")

    def restart_database() -> str:
        fleet.database.stop(how := chance.choice([signal.SIGINT, signal.SIGQUIT]))
        time.sleep(away := chance.choice([0.0, chance.uniform(0, 4.0)]))
        fleet.database.start()
        return f"the database restarted ({how.name}), away for {away:.1f} s"

    def kill_connections() -> str:
        with psycopg.connect(fleet.store(fleet.database.port).url, autocommit=True) as mine:
            mine.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return "the database's connections killed"

    kinds = [
        kill_coordinator,
        kill_coordinator,
        stop_coordinator,
        stop_coordinator,
        kill_client,
        cut,
        cut,
        cut_off,
        cut_off,
    ]
    kinds += [restart_database, kill_connections]
    faults = [kill_coordinator, stop_coordinator, *chance.choices(kinds, k=chance.randrange(3, 8))]
    chance.shuffle(faults)
    yield from faults


def run(schedules: int, seed: int, folder: Path, model_cache: Path) -> list[Outcome]:
    """Carry out schedules numbered from `seed` on, one after the other, telling of each as it ends."""
    outcomes = []
    for number in range(1, schedules + 1):
        place = folder / str(seed + number - 1)
        outcome = carry_out(seed + number - 1, place, model_cache)
        outcomes.append(outcome)
        print(outcome.told(number, schedules, place), flush=True)
        if outcome.good:
            shutil.rmtree(place)
    return outcomes
