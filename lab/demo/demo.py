"""The demo: a real coordinator and real clients on this machine's loopback, watched until the run is over.

Whatever happens (an error, a signal, a process that dies) everything it started is stopped before it returns or
raises.
"""

import fcntl
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zowarmup.cli.failure import CommandError, NoAnswer, Usage
from zowarmup.cli.interrupts import Interrupts
from zowarmup.cli.run_status import Run, Status, VersionStatus
from zowarmup.cli.session import Session
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.files import open_lock
from zowarmup.lab.demo.result import Result
from zowarmup.lab.demo.settings import DemoSettings, allowing, run_file, to_toml
from zowarmup.lab.demo.view import Scene
from zowarmup.lab.processes import Ended, Processes

POLL_S = 0.5
SILENCE_LIMIT_S = 120.0  # of a coordinator that is alive but does not answer
REPORTS_LIMIT_S = 9.0  # the coordinator itself leaves 10 s after the end
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
NO_PROXY = {"no_grpc_proxy": "127.0.0.1"}
HELD = ".demo"
LEFTOVERS = ("server", "clients", "logs", "run.toml", "report.json", "report.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoClient:
    """A client of the demo, with its part (from 1 to the number of clients) of the digits."""

    name: str
    tier: Tier
    shard: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPlan:
    """What to run, and the folder that everything of it goes into."""

    out: Path
    seed: int
    model: str
    high: int
    low: int
    alpha: float
    settings: DemoSettings
    paper_mode: bool = False

    @property
    def clients(self) -> dict[Tier, int]:
        return {tier: count for tier, count in ((Tier.HIGH, self.high), (Tier.LOW, self.low)) if count}

    @property
    def members(self) -> tuple[DemoClient, ...]:
        names = [(tier, number) for tier, count in self.clients.items() for number in range(1, count + 1)]
        return tuple(
            DemoClient(name=f"{tier}-{number}", tier=tier, shard=shard) for shard, (tier, number) in enumerate(names, 1)
        )

    @property
    def name(self) -> str:
        return f"demo-{self.model}-{self.seed}"

    @property
    def title(self) -> str:
        tiers = " + ".join(f"{count} {tier}" for tier, count in self.clients.items())
        return f"zowarmup demo: {self.model}, {tiers}, alpha {self.alpha:g}, seed {self.seed}" + (
            ", as in the paper" if self.paper_mode else ""
        )


@contextmanager
def folder(out: Path) -> Iterator[None]:
    """`out`, emptied of an earlier demo and held by this one. Raises Usage where it holds anything else, and Failure
    where another demo is at work in it or it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / HELD).exists():
            raise Usage(f"--out {out}: is not empty, and not from an earlier demo; name another folder")
        held = open_lock(out / HELD)
    except OSError as error:
        raise _unwritable(out, error) from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(out)
        except BlockingIOError:
            raise CommandError(f"another demo is at work in {out}: name another folder with --out") from None
        except OSError as error:
            raise _unwritable(out, error) from error
        yield


def _clear(out: Path) -> None:
    for name in LEFTOVERS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in ("logs", "clients"):
        (out / name).mkdir()


def _unwritable(out: Path, error: OSError) -> CommandError:
    return CommandError(f"--out {out}: {error.strerror or error}; name a folder that can be written")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def conduct(plan: DemoPlan, noted: Interrupts, show: Callable[[Scene], None]) -> Result:
    """Run it all and return what it has shown. Raises CommandError where a process dies, Interrupted where a signal came."""
    try:
        run = run_file(plan.name, plan.seed, plan.model, plan.high, plan.low, plan.settings)
    except ValueError as error:
        raise Usage(str(error)) from error
    with folder(plan.out):
        try:
            (plan.out / "run.toml").write_text(to_toml(run), encoding="utf-8")
        except OSError as error:
            raise _unwritable(plan.out, error) from error
        address = f"127.0.0.1:{free_port()}"
        with (
            Processes(plan.out / "logs", noted, {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}) as processes,
            Session(address, deadline_s=3.0) as session,
        ):
            begun = time.monotonic()
            _start(plan, run, processes, address)
            return _Observer(plan, processes, session, noted, begun).until_finished(show)


def _start(plan: DemoPlan, run: RunFile, processes: Processes, address: str) -> None:
    server = [str(plan.out / "run.toml"), "--data-dir", str(plan.out / "server"), "--address", address]
    processes.start("server", "zowarmup.server.main", [*server, "--exit-when-finished"])
    for member in plan.members:
        data = f"digits:{member.shard}/{len(plan.members)},alpha={plan.alpha!r},seed={plan.seed}"
        client = ["--server", address, "--data", data, "--tier", member.tier.value, "--name", member.name]
        state = ["--state-dir", str(plan.out / "clients" / member.name)]
        processes.start(member.name, "zowarmup.client.main", [*client, *state, *allowing(run.model)])


class _Observer:
    """Asks the coordinator twice a second where the run is, and the kernel how its processes are."""

    def __init__(self, plan: DemoPlan, processes: Processes, session: Session, noted: Interrupts, begun: float) -> None:
        self._plan, self._processes, self._session = plan, processes, session
        self._noted, self._begun = noted, begun
        self._heard = begun
        self._run: Run | None = None
        self._status: Status | None = None
        self._versions: dict[int, VersionStatus] = {}

    def until_finished(self, show: Callable[[Scene], None]) -> Result:
        finished = 0.0
        while True:
            self._noted.check()
            ended = self._processes.ended()  # before asking: who has left then may do so by what is answered
            self._ask()
            now = time.monotonic()
            status = self._status
            if status is not None and status.gave_up:
                raise CommandError(f"the run gave up: {status.gave_up}")
            if status is not None and status.phase is Phase.FINISHED:
                finished = finished or now
                bad = [end for end in ended if end.code != 0]
                left = any(end.name == "server" for end in ended)
                if self._complete(status) or (not bad and (left or now - finished > REPORTS_LIMIT_S)):
                    return self._result(status, finished - self._begun)
            else:
                bad = ended
            if bad:
                raise CommandError(_deaths(bad))
            if now - self._heard > SILENCE_LIMIT_S:
                raise CommandError(
                    f"the coordinator has not answered for {SILENCE_LIMIT_S:g} s; see {self._processes.log('server')}"
                )
            show(self._scene(now))
            self._noted.sleep(POLL_S)

    def _ask(self) -> None:
        try:
            self._run = self._run or self._session.run()
            self._status = self._session.status()
            settled = max((v.version for v in self._versions.values() if v.evaluation), default=-1)
            self._versions.update((v.version, v) for v in self._session.versions(settled + 1))
            self._heard = time.monotonic()
        except NoAnswer:
            return  # it is not there yet, or has just left: its process tells which

    def _complete(self, status: Status) -> bool:
        """Whether all that the coordinator still waits for has come: every replica's report, the last evaluation."""
        reported = len(status.replicas.agree) + len(status.replicas.differ)
        evaluated = status.evaluation is not None and status.evaluation.version == status.version
        return evaluated and reported == len(self._plan.members) and status.version in self._versions

    def _peaks(self) -> dict[Tier, int]:
        seen = {member: self._processes.peak_memory_bytes(member.name) for member in self._plan.members}
        reported = {client.name: client.peak_memory_bytes for client in self._status.clients} if self._status else {}
        return {
            tier: max(max(peak, reported.get(m.name, 0)) for m, peak in seen.items() if m.tier is tier)
            for tier in self._plan.clients
        }

    def _scene(self, now: float) -> Scene:
        return Scene(
            title=self._plan.title,
            clients=self._plan.clients,
            elapsed_s=now - self._begun,
            status=self._status,
            versions=self._history(),
            peak_rss_bytes=self._peaks(),
            waiting=self._waiting(now),
        )

    def _waiting(self, now: float) -> str:
        status = self._status
        if status is None:
            return "waiting: the coordinator is getting the model ready"
        if now - self._heard > 2 * POLL_S + 1:
            return f"the coordinator has not answered for {now - self._heard:.0f} s"
        if status.phase is Phase.FINISHED:
            return "waiting: the clients' last reports"
        return f"paused: {status.paused}" if status.paused else status.activity

    def _history(self) -> tuple[VersionStatus, ...]:
        return tuple(self._versions[version] for version in sorted(self._versions))

    def _result(self, status: Status, seconds: float) -> Result:
        if self._run is None:
            raise CommandError("the coordinator never said what it trains")
        return Result(
            model=self._plan.model,
            seed=self._plan.seed,
            clients=self._plan.clients,
            parameters=self._run.parameters,
            status=status,
            versions=self._history(),
            peak_rss_bytes=self._peaks(),
            seconds=seconds,
        )


def _deaths(ended: list[Ended]) -> str:
    """The first that failed, with its last words; the others by name."""
    first, *others = sorted(ended, key=lambda end: (end.code == 0, end.name != "server"))
    also = f"\n(and {', '.join(other.name for other in others)})" if others else ""
    return first.sentence() + also
