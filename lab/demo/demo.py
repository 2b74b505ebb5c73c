"""The demo: a real coordinator and real clients on this machine's loopback, watched until the run is over.

Whatever happens (an error, a signal, a process that dies) everything it started is stopped before it returns or
raises.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import Run, Status, VersionStatus, bytes_per_contribution, payload
from zowarmup.cli.session.view import Pace, status_line, status_view
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.command import CommandError, Interrupts, NoAnswer
from zowarmup.common.text import amount, counted, duration
from zowarmup.data import DataError
from zowarmup.lab.demo.page import FILE, kept_page, page_url
from zowarmup.lab.demo.pictures import HELD_OUT, Shares, write
from zowarmup.lab.demo.report import WORKING_PHASES, Result
from zowarmup.lab.demo.settings import allowing, to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Ended, Processes, free_port, held, unwritable

POLL_S = 0.5
SILENCE_LIMIT_S = 120.0  # of a coordinator that is alive but does not answer
REPORTS_LIMIT_S = 9.0  # the coordinator itself leaves 10 s after the end
PICTURES = "pictures"
LEFTOVERS = ("server", "clients", "logs", PICTURES, "run.toml", "report.json", "report.png", FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoClient:
    """A client of a demo. `data`: the spec of what it has."""

    name: str
    tier: Tier
    data: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPlan:
    """What to run, and the folder that everything of it goes into.

    Args:
        out: That folder.
        run: What is trained.
        members: The clients.
        title: Of what is shown.
        subject: What is learnt, for a sentence.
        held_out: What it is tried on, the same.
        shares: Pictures to be written for the clients first, in their order.
        folder: The project that the run and its data belong to: processes start there, and its code can be imported. Its run file
            is used as it is.
    """

    out: Path
    run: RunFile
    members: tuple[DemoClient, ...]
    title: str
    subject: str
    held_out: str
    shares: Shares | None = None
    folder: Path | None = None

    @property
    def clients(self) -> dict[Tier, int]:
        """How many, by tier."""
        counts = {tier: sum(member.tier is tier for member in self.members) for tier in (Tier.HIGH, Tier.LOW)}
        return {tier: count for tier, count in counts.items() if count}


def demo_plan(
    out: Path, run: RunFile, high: int, low: int, alpha: float, paper_mode: bool = False, shares: Shares | None = None
) -> DemoPlan:
    """The demo of digits or, where they are shared out, of pictures.

    Args:
        out: Its folder.
        run: What is trained.
        high: So many clients of the high tier.
        low: And of the low tier.
        alpha: How digits were or will be shared out.
        paper_mode: Whether they probe as in the paper.
        shares: Of pictures; None: the digits.
    """
    counts = {tier: count for tier, count in ((Tier.HIGH, high), (Tier.LOW, low)) if count}
    names = [(tier, f"{tier}-{number}") for tier, count in counts.items() for number in range(1, count + 1)]

    def data(shard: int, name: str) -> str:
        return pictures_spec(out, name) if shares else f"digits:{shard}/{len(names)},alpha={alpha!r},seed={run.seed}"

    tiers = " + ".join(f"{count} {tier}" for tier, count in counts.items())
    how = ", as in the paper" if paper_mode else ""
    return DemoPlan(
        out=out,
        run=run,
        members=tuple(
            DemoClient(name=name, tier=tier, data=data(shard, name)) for shard, (tier, name) in enumerate(names, 1)
        ),
        title=f"zowarmup demo: {run.model.name}, {tiers}, alpha {alpha:g}, seed {run.seed}{how}",
        subject=shares.data if shares else "handwritten digits",
        held_out=f"{len(shares.held_out):,} held-out pictures" if shares else "held-out digits",
        shares=shares,
    )


def pictures_spec(out: Path, name: str) -> str:
    """The spec of a client's pictures, or of the held-out ones, in the folder of a demo."""
    return f"folder:{(out / PICTURES / name).absolute()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A demo at one moment. `status` is None until the coordinator answers; `waiting` says what for, where that is not in
    the status."""

    title: str
    elapsed_s: float
    status: Status | None
    versions: Sequence[VersionStatus]
    waiting: str

    @property
    def phase(self) -> Phase | None:
        return self.status.phase if self.status else None


def scene_view(scene: Scene) -> RenderableType:
    head = Text.assemble((scene.title, "bold"), (f"  {duration(scene.elapsed_s)}", "dim"))
    shown = [status_view(scene.status, Pace(tuple(scene.versions)).rows(scene.status))] if scene.status else []
    # What is waited for comes last: so nothing jumps.
    return Group(head, Text(), *shown, Text(scene.waiting))


def scene_line(scene: Scene) -> str:
    """The moment in one line, for a log or a pipe."""
    said = [status_line(scene.status)] if scene.status else []
    return f"{duration(scene.elapsed_s)}: {'; '.join([*said, *([scene.waiting] if scene.waiting else [])])}"


def _tiers(result: Result) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("tier")
    table.add_column("clients", justify="right")
    table.add_column("up, each warm-up", justify="right", max_width=10)
    table.add_column("up, each zeroth-order", justify="right", max_width=13)
    table.add_column("up in all", justify="right", max_width=9)
    table.add_column("down in all", justify="right", max_width=9)
    table.add_column("peak memory", justify="right", max_width=8)
    traffic = result.status.traffic
    for tier, count in result.clients.items():
        each = [bytes_per_contribution(traffic, tier, phase) for phase in WORKING_PHASES]
        table.add_row(
            tier.value,
            str(count),
            *(amount(value) if value else "-" for value in each),
            amount(payload(traffic, "up", tier)),
            amount(payload(traffic, "down", tier)),
            amount(result.peak_memory_bytes(tier)) if result.peak_memory_bytes(tier) else "-",
        )
    return table


def result_view(result: Result) -> RenderableType:
    """The table at the end."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    pivot, final, metric = result.at_pivot, result.final, result.metric
    if final is not None:
        before = "" if pivot is None else f", from {metric.shown(pivot)} at the pivot"
        facts.add_row(metric.title, Text.assemble((metric.shown(final), "bold"), before))
    facts.add_row("replicas", _replicas(result))
    facts.add_row("uplink", _uplink(result))
    facts.add_row("took", f"{duration(result.seconds)} for {counted(result.status.version, 'round')}")
    return Group(facts, Text(), _tiers(result))


def _replicas(result: Result) -> Text:
    total = sum(result.clients.values())
    if result.replicas_equal:
        return Text(f"the coordinator's and all {total} clients' are equal ({result.status.digest[:8]})")
    agree = len(result.status.replicas.agree)
    return Text(f"NOT shown to be equal: {agree} of {total} clients agree with the coordinator", style="red")


def _uplink(result: Result) -> str:
    text = f"{amount(result.uplink_bytes)} from all; FedAvg at equal rounds: {amount(result.fedavg_uplink_bytes)}"
    if result.uplink_bytes:
        text += f", {result.fedavg_uplink_bytes / result.uplink_bytes:.0f} times as much"
    return text


def _clear(out: Path) -> None:
    for name in LEFTOVERS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in ("logs", "clients"):
        (out / name).mkdir()


@contextmanager
def conducted(plan: DemoPlan, noted: Interrupts, stays: bool = False) -> "Iterator[RunningDemo]":
    """Start it all; it is gone when the block ends. `stays`: the coordinator goes on when the run is over. Raises CommandError
    where something cannot be started, Interrupted where a signal came."""
    with held(plan.out, "demo"):
        try:
            _clear(plan.out)
            text = to_toml(plan.run) if plan.folder is None else (plan.folder / "run.toml").read_text(encoding="utf-8")
            (plan.out / "run.toml").write_text(text, encoding="utf-8")
            if shares := plan.shares:
                parts = {member.name: share for member, share in zip(plan.members, shares.clients, strict=True)}
                parts[HELD_OUT] = shares.held_out
                write(parts, shares.found.class_names, plan.out / PICTURES, noted.check)
        except DataError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise unwritable(plan.out, error) from error
        address = f"127.0.0.1:{free_port()}"
        environment = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}
        if plan.folder is not None:
            before = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = f"{plan.folder}{os.pathsep + before if before else ''}"
        with (
            Processes(plan.out / "logs", noted, environment, folder=plan.folder) as processes,
            Session(address, deadline_s=3.0) as session,
        ):
            begun = time.monotonic()
            _start(plan, processes, address, stays)
            yield RunningDemo(plan, processes, session, noted, begun)


def _start(plan: DemoPlan, processes: Processes, address: str, stays: bool) -> None:
    out = plan.out.absolute()
    server = [str(out / "run.toml"), "--data-dir", str(out / "server"), "--address", address]
    processes.start("server", "zowarmup.server.main", [*server, *([] if stays else ["--exit-when-finished"])])
    for member in plan.members:
        client = ["--server", address, "--data", member.data, "--tier", member.tier.value, "--name", member.name]
        state = ["--state-dir", str(out / "clients" / member.name)]
        processes.start(member.name, "zowarmup.client.main", [*client, *state, *allowing(plan.run)])


class RunningDemo:
    """A demo at work, whose coordinator is asked twice a second where the run is. `page`: where it can be watched; empty while
    that is not known, and where it cannot."""

    def __init__(self, plan: DemoPlan, processes: Processes, session: Session, noted: Interrupts, begun: float) -> None:
        self._plan, self._processes, self._session = plan, processes, session
        self._noted, self._begun = noted, begun
        self._heard = begun
        self._run: Run | None = None
        self._status: Status | None = None
        self._versions: dict[int, VersionStatus] = {}
        self.page = ""

    def until_finished(self, show: Callable[[Scene], None], tell: Callable[[str], None] = lambda line: None) -> Result:
        """What it has shown in the end.

        Args:
            show: Gets every scene.
            tell: Gets a line with the page, once there is one.

        Raises:
            CommandError: A process has died, or the run has given up.
            Interrupted: A signal came.
        """
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
            if not self.page and status is not None and (page := page_url(self._processes.log("server"))):
                self.page = page
                tell(f"watch it in a browser: {page}")
            show(self._scene(now))
            self._noted.sleep(POLL_S)

    def stay(self) -> None:
        """Wait while the coordinator shows its page. Raises Interrupted where a signal came, as Ctrl-C is."""
        while not any(end.name == "server" for end in self._processes.ended()):
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

    def _scene(self, now: float) -> Scene:
        return Scene(
            title=self._plan.title,
            elapsed_s=now - self._begun,
            status=self._status,
            versions=self._history(),
            waiting=self._waiting(now),
        )

    def _waiting(self, now: float) -> str:
        status = self._status
        if status is None:
            return "waiting: the coordinator is getting the model ready"
        if now - self._heard > 2 * POLL_S + 1:
            return f"the coordinator has not answered for {now - self._heard:.0f} s"
        return "waiting: the clients' last reports" if status.phase is Phase.FINISHED else ""

    def _history(self) -> tuple[VersionStatus, ...]:
        return tuple(self._versions[version] for version in sorted(self._versions))

    def _result(self, status: Status, seconds: float) -> Result:
        if self._run is None:
            raise CommandError("the coordinator never said what it trains")
        return Result(
            data=self._plan.subject,
            held_out=self._plan.held_out,
            model=self._plan.run.model.name,
            seed=self._plan.run.seed,
            clients=self._plan.clients,
            parameters=self._run.parameters,
            status=status,
            versions=self._history(),
            seconds=seconds,
            page=kept_page(self.page, self._plan.out / "server"),
        )


def _deaths(ended: list[Ended]) -> str:
    """The first that failed, with its last words; the others by name."""
    first, *others = sorted(ended, key=lambda end: (end.code == 0, end.name != "server"))
    also = f"\n(and {', '.join(other.name for other in others)})" if others else ""
    return first.sentence() + also
