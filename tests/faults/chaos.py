"""`make chaos`: runs of real processes under random schedules of kill -9, cut and dead links, resets and restarts.

Each schedule is a run of one high-tier and three low-tier clients on digits, reached through a bad link. What must
hold: the run finishes; every contribution that a client was told is on disk is in the ledger; and a fresh process that
is given nothing but the data directory comes out with the digest that the coordinator announced. The last line of the
output is JSON with how many of the schedules did.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.lives import Lives
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.common.system.command import Interrupts
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.ledger import Ledger

RUN = RunFile(
    name="chaos",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=1, quorum=1.0, deadline_s=20.0, epochs=1),
    zeroth_order=zeroth_order_settings(
        rounds=25,
        clients_per_round=4,
        minimum_clients=2,
        quorum=0.5,
        deadline_s=6.0,
        probes=24,
        head_projections=8,
        snapshot_every=6,
    ),
    evaluation=Evaluation(data="digits:test", every=100),
    server=Server(abandoned_limit=1000),
)
FLEET = {"high-1": "high", "low-1": "low", "low-2": "low", "low-3": "low"}
LIMIT_S = 240.0


@dataclass(frozen=True)
class Outcome:
    """Of one schedule. `faults`: what was done to it, in order."""

    seed: int
    finished: bool
    acknowledged: int
    lost: int
    equal: bool
    faults: tuple[str, ...]
    seconds: float
    why: str = ""

    @property
    def good(self) -> bool:
        return self.finished and self.equal and not self.lost

    def told(self, number: int, of: int, folder: Path) -> str:
        """It is the so-manieth; what a bad one has left is in `folder`."""
        verdict = "good" if self.good else f"BAD ({self.why}), kept in {folder}"
        said = (
            f"{number} of {of}: seed {self.seed}, {len(self.faults)} faults, {self.acknowledged} acknowledged, "
            f"{self.seconds:.0f} s: {verdict}"
        )
        return said if self.good else "\n    ".join((said, *self.faults))


class Fleet(Lives):
    """One coordinator with its data directory."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(folder, ["server"], FLEET)
        self.data_dir, self.link = folder / "server", self.links["server"]
        shutil.copytree(template / "server", self.data_dir)
        self._run_file = template / "run.toml"

    def lead(self) -> None:
        options = [str(self._run_file), "--data-dir", str(self.data_dir), "--address", self.addresses["server"]]
        self.begin("server", "zowarmup.server.main", options)


def prepare(template: Path, model_cache: Path) -> None:
    """A data directory with a run that has just been created: building a model takes seconds, once is enough."""
    template.mkdir()
    (template / "run.toml").write_text(to_toml(RUN))
    arguments = [str(template / "run.toml"), "--data-dir", str(template / "server"), "--model-cache", str(model_cache)]
    with Processes(template, Interrupts(), {**ONE_THREAD, **NO_PROXY}) as processes:
        processes.start("prepare", "zowarmup.server.main", [*arguments, "--address", f"127.0.0.1:{free_port()}"])
        while "listening on" not in processes.log("prepare").read_text():
            if ended := processes.ended():
                raise SystemExit(ended[0].sentence())
            time.sleep(0.1)


def carry_out(seed: int, folder: Path, template: Path) -> Outcome:
    """One schedule, to its end."""
    chance, start = random.Random(seed), time.monotonic()
    fleet = Fleet(folder, template)
    told: list[str] = []
    digest, why = None, ""
    try:
        fleet.lead()
        for name in FLEET:
            fleet.join(name)
        for fault in _schedule(chance, fleet):
            time.sleep(chance.uniform(0.1, 2.5))
            if (digest := fleet.final()) is not None:
                break
            told.append(f"{time.monotonic() - start:.1f} s: {fault()}")
        fleet.mend()
        while digest is None and not why:
            digest, why = fleet.final(), fleet.failed()
            if time.monotonic() > start + LIMIT_S:
                why = f"not finished after {LIMIT_S:.0f} s"
            time.sleep(0.2)
    finally:
        fleet.close()
    acknowledged, kept = fleet.acknowledged(), _in_ledger(fleet.data_dir)
    replay = replayed(fleet.data_dir)
    lost = acknowledged - kept
    equal = digest is not None and digest == replay
    why = why or (f"lost: {sorted(lost)}" if lost else "") or ("" if equal else f"{digest} is not {replay}")
    return Outcome(
        seed, digest is not None, len(acknowledged), len(lost), equal, tuple(told), time.monotonic() - start, why
    )


def _schedule(chance: random.Random, fleet: Fleet) -> Iterator[Callable[[], str]]:
    """What will be done to a run: at least one kill of the coordinator, and each kind now and then."""

    def kill_coordinator() -> str:
        fleet.kill("server")
        time.sleep(away := chance.choice([0.0, chance.uniform(0, 1.5)]))
        fleet.lead()
        return f"coordinator killed, away for {away:.1f} s"

    def kill_client() -> str:
        for name in (names := chance.sample(list(FLEET), chance.choice([1, 1, 1, 2]))):
            fleet.kill(name)
        time.sleep(chance.uniform(0, 1.0))
        for name in names:
            fleet.join(name)
        return f"{', '.join(names)} killed"

    def cut() -> str:
        fleet.link.cut()
        time.sleep(away := chance.uniform(0.05, 2.0))
        fleet.link.mend()
        return f"every link cut for {away:.1f} s"

    def hole() -> str:
        fleet.link.black_hole()
        time.sleep(away := chance.uniform(0.2, 3.0))
        fleet.link.mend()
        return f"black hole for {away:.1f} s"

    def reset() -> str:
        fleet.link.reset_after(amount := chance.randrange(10, 60_000))
        return f"a reset after {amount} more bytes"

    def slow() -> str:
        fleet.link.delay_s = chance.choice([0.0, 0.01, 0.05])
        return f"delay {fleet.link.delay_s:g} s"

    kinds = [kill_coordinator, kill_coordinator, kill_client, kill_client, cut, hole, reset, slow]
    faults = [kill_coordinator, kill_client, *chance.choices(kinds, k=chance.randrange(3, 8))]
    chance.shuffle(faults)
    yield from faults


def _in_ledger(data_dir: Path) -> set[tuple[str, int]]:
    ledger = Ledger(data_dir / LEDGER)
    try:
        return {(e.client, e.contribution.round) for _, e in ledger.read() if isinstance(e, ev.Contributed)}
    finally:
        ledger.close()


def replayed(data_dir: Path) -> str:
    """The digest that a fresh process computes from the data directory alone, empty where it finds damage."""
    command = [sys.executable, "-m", "zowarmup.cli.main", "fsck", str(data_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if not done.stdout.startswith("{"):
        return done.stderr.strip()
    report = json.loads(done.stdout)
    return str(report["digest"]) if not report["problems"] and not report["notes"] else str(report["problems"])


def run(schedules: int, seed: int, folder: Path, model_cache: Path, jobs: int = 2) -> list[Outcome]:
    """Carry out schedules numbered from `seed` on, `jobs` at a time, telling of each as it ends."""
    template = folder / "template"
    prepare(template, model_cache)
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(carry_out, seed + i, folder / str(seed + i), template) for i in range(schedules)]
        for number, pending in enumerate(runs, 1):
            outcome = pending.result()
            outcomes.append(outcome)
            print(outcome.told(number, schedules, folder / str(outcome.seed)), flush=True)
            if outcome.good:
                shutil.rmtree(folder / str(outcome.seed))
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    return json.dumps(
        {
            "schedules": len(outcomes),
            "finished": sum(outcome.finished for outcome in outcomes),
            "lost": sum(outcome.lost for outcome in outcomes),
            "equal": sum(outcome.equal for outcome in outcomes),
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="zowarmup-chaos-"))
    cache = folder / "model-cache"
    if arguments.store == "postgresql":
        from tests.faults import shared_chaos

        outcomes = shared_chaos.run(arguments.schedules, arguments.seed, folder, cache)
    else:
        outcomes = run(arguments.schedules, arguments.seed, folder, cache, arguments.jobs)
    good = all(outcome.good for outcome in outcomes)
    if good:
        shutil.rmtree(folder)
    print(summary(outcomes))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
