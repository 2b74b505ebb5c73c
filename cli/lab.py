"""The commands of the lab: `zowarmup new`, `demo`, `fleet` and `experiment`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zowarmup.cli.options import AuthorityOption, CertificateOption, InsecureOption, KeyOption, ServerOption
from zowarmup.common.settings.addresses import DEFAULT_ADDRESS, addresses_in
from zowarmup.common.system.command import CommandError, Interrupted, Usage, interrupts
from zowarmup.common.text import amount, counted, listed, percent
from zowarmup.lab.demo.models import DemoModel
from zowarmup.lab.progress import progress
from zowarmup.lab.projects.templates import RUN_FILE, TemplateKind, new_project

if TYPE_CHECKING:
    from zowarmup.lab.demo.demo import DemoPlan
    from zowarmup.lab.experiments.grid import Cell

MOST_CLIENTS = 100_000
SEED_MAX = (1 << 63) - 1
DEMO_LINE_S, FLEET_LINE_S, EXPERIMENT_LINE_S = 5.0, 5.0, 10.0
JOB_BYTES = 1536 << 20
"""What a coordinator and a fleet with torch may take, for a small model."""


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet, or is empty.")],
    kind: Annotated[TemplateKind, typer.Option(help="What the model learns from.")] = TemplateKind.IMAGES,
) -> None:
    """Begin a project of your own. A run file, a model, data and a README, which work as they are: zowarmup demo DIR."""
    console = Console(highlight=False, markup=False)
    for path in new_project(folder, kind):
        console.print(str(path), soft_wrap=True)
    console.print(f"try it with `zowarmup demo {folder}`, and read {folder / 'README.md'}", soft_wrap=True)


def demo(
    project: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A project of your own (zowarmup new); else the digits.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=SEED_MAX, help="Decides everything that is drawn (0).")
    ] = None,
    high: Annotated[int | None, typer.Option(metavar="N", min=0, max=100, help="High-tier clients (1).")] = None,
    low: Annotated[int | None, typer.Option(metavar="N", min=0, max=100, help="Low-tier clients (9).")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for run file, logs and report (demo).")
    ] = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", min=1, max=100_000, help="Zeroth-order rounds.")] = None,
    model: Annotated[
        DemoModel | None, typer.Option(help="What to train: mlp if not given, cnn of pictures.", show_default=False)
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(metavar="A", min=0.001, max=1000, help="Small: each client has few classes (0.1).")
    ] = None,
    paper_mode: Annotated[bool, typer.Option("--paper-mode", help="Probe as the paper does (docs/method.md).")] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Pictures in place of the digits: CIFAR-10, or a folder of images for each class."
        ),
    ] = None,
) -> None:
    """Train a fleet of processes on this machine. It writes a report; on a terminal its page stays until Ctrl-C."""
    from zowarmup.lab.demo.demo import conducted, result_view, scene_line, scene_view
    from zowarmup.lab.demo.report import write_report

    console = Console(highlight=False, markup=False)
    if project is not None:
        of_digits = {"seed": seed, "low": low, "rounds": rounds, "model": model, "alpha": alpha, "images": images}
        given = [name for name, value in (*of_digits.items(), ("paper-mode", paper_mode or None)) if value is not None]
        if given:
            raise Usage(f"--{given[0]} is of the demo without a project: change {project / RUN_FILE} or the data")
        from zowarmup.lab.projects.project import open_project

        opened = open_project(project, lambda line: console.print(line, soft_wrap=True))
        plan = opened.demo(out or project / "demo", high)
    else:
        counts = 1 if high is None else high, 9 if low is None else low
        plan = _digits_or_pictures(
            console,
            out or Path("demo"),
            seed or 0,
            *counts,
            rounds,
            model,
            0.1 if alpha is None else alpha,
            paper_mode,
            images,
        )
    stays = console.is_terminal and sys.stdin.isatty()
    with interrupts() as noted, conducted(plan, noted, stays) as running:
        with progress(console, DEMO_LINE_S) as show:
            result = running.until_finished(
                lambda scene: show(scene_line(scene), lambda: scene_view(scene), scene.phase),
                lambda line: console.print(line, soft_wrap=True),
            )
        console.print(result_view(result))
        noted.check()
        written = write_report(result, plan.out)
        console.print(f"\n{listed(map(str, written))}", soft_wrap=True)
        if stays and running.page:
            console.print(f"the page stays at {running.page} until Ctrl-C", soft_wrap=True)
            with suppress(Interrupted):
                running.stay()
    if not result.replicas_equal:
        raise CommandError(f"the replicas were not shown to be equal; see the logs in {plan.out / 'logs'}")


def _digits_or_pictures(
    console: Console,
    out: Path,
    seed: int,
    high: int,
    low: int,
    rounds: int | None,
    model: DemoModel | None,
    alpha: float,
    paper_mode: bool,
    images: Path | None,
) -> "DemoPlan":
    """The demo of the digits or, where `images` names a folder, of the pictures there. Raises Usage."""
    from zowarmup.data import DataError
    from zowarmup.lab.demo.demo import demo_plan, pictures_spec
    from zowarmup.lab.demo.pictures import HELD_OUT, find, share
    from zowarmup.lab.demo.settings import demo_run, pictures_run

    if high < 1:
        raise Usage(f"--high {high}: must be at least 1, as somebody must train before the pivot")
    shares = None
    try:
        if images is None:
            run = demo_run(seed, model or DemoModel.MLP, high, low, paper_mode, rounds)
        elif paper_mode or model is DemoModel.MLP:
            raise Usage(
                "--images: pictures have a cnn and settings of their own: leave out --paper-mode and --model mlp"
            )
        else:
            shares = share(find(Path(os.path.expanduser(images))), high + low, alpha, seed)
            run = pictures_run(seed, high, low, pictures_spec(out, HELD_OUT), rounds)
            console.print(shares.sentence, soft_wrap=True)
    except DataError as error:
        raise Usage(f"--images: {error}") from error
    except OSError as error:
        raise Usage(f"--images {images}: {error.strerror or error}: check its path and permissions") from error
    except ValueError as error:
        raise Usage(str(error)) from error
    return demo_plan(out, run, high, low, alpha, paper_mode, shares)


class Engine(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def fleet(
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=MOST_CLIENTS, help="How many.")],
    data: Annotated[
        str,
        typer.Option(metavar="SPEC", help="What they share: digits, cifar10:PATH, npz:PATH, ... [,alpha=0.1][,seed=0]"),
    ],
    server: ServerOption = DEFAULT_ADDRESS,
    high: Annotated[int | None, typer.Option(metavar="N", min=0, help="How many of them train.")] = None,
    high_share: Annotated[
        float | None, typer.Option("--high-share", metavar="S", min=0.0, max=1.0, help="Which share of them trains.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="The clients are called NAME-1, NAME-2, ...")] = "fleet",
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="Identities, replica (~/.local/state/zowarmup/NAME).")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=1024, help="Processes, each with a replica and a part of the clients."),
    ] = 1,
    threads: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Threads that each computes with.")] = 1,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where forward passes run: cpu, or a device of torch's such as cuda.")
    ] = "cpu",
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Devices they are like: pi-zero, ..., a TOML file.")
    ] = "",
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=SEED_MAX, help="Deals profiles and drop-outs.")] = 0,
    engine: Annotated[Engine, typer.Option(help="Where the processes are.")] = Engine.LOCAL,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="The Ray cluster, with --engine ray.")] = "auto",
    join_file: Annotated[
        Path | None, typer.Option("--join-file", metavar="FILE", help="Invitation for low clients.")
    ] = None,
    join_file_high: Annotated[
        Path | None, typer.Option("--join-file-high", metavar="FILE", help="Invitation for high clients.")
    ] = None,
    ca: AuthorityOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    insecure: InsecureOption = False,
    connect_timeout: Annotated[
        float | None,
        typer.Option(
            "--connect-timeout",
            metavar="S",
            min=0.0,
            help="Give up after so many seconds without an answer (60 on a terminal; 0: never).",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML: what the clients allow the coordinator.")
    ] = None,
    allow_model: Annotated[
        list[str] | None,
        typer.Option("--allow-model", metavar="MODULE:FACTORY", help="A model whose code may be imported here."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what each client says.")] = False,
) -> None:
    """Take part with many clients at once. Each is a real one; all of a process share one replica. Ctrl-C leaves."""
    # Before the first import of numpy: a pool of threads for its few products would only be in the way.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from zowarmup.client.net.tls import read_authority
    from zowarmup.client.policy import read_policy
    from zowarmup.client.store.directory import client_name, default_directory
    from zowarmup.client.work.joining import invited, patience_s
    from zowarmup.common.messages.values import Tier
    from zowarmup.lab.simulation.fleet import carry_beside, carry_here, carry_on_ray, mix, secret
    from zowarmup.lab.simulation.host import quieten
    from zowarmup.lab.simulation.part import FleetProgress, FleetShare, parts

    try:
        client_name(f"{name}-{clients}")
    except ValueError as error:
        raise Usage(f"--name {name!r}: the clients would be called so, and {error}") from None
    if high is not None and high_share is not None:
        raise Usage("--high and --high-share say the same: give one of them")
    training = high if high is not None else round((high_share or 0.0) * clients)
    if training > clients:
        raise Usage(f"--high {training}: must be at most --clients {clients}")
    if workers > clients:
        raise Usage(f"--workers {workers}: must be at most --clients {clients}")
    try:
        addresses_in(server)
    except ValueError as error:
        raise Usage(f"--server {error}") from None
    dealt = mix(profile)
    with _sentences():
        folder = state or default_directory(name)
        shown = {Tier.LOW: invited(join_file), Tier.HIGH: invited(join_file_high) if join_file_high else None}
        authority = read_authority(ca, "--ca") if ca else b""
        allowed = read_policy(policy, allow_model or ())
    if allowed.counted:
        raise Usage(
            "--policy: mb_per_day, probes_per_day and probes are limits of one client: leave them out for a fleet"
        )
    authority = authority or next((found.authority for found in shown.values() if found), b"")
    whole = FleetShare(
        server=server,
        name=name,
        data=data,
        clients=clients,
        first=1,
        count=clients,
        high=training,
        state=folder,
        secret=secret(folder),
        mix=dealt,
        seed=seed,
        threads=threads,
        device=device,
        authority=authority,
        certificate=certificate,
        key=key,
        insecure=insecure,
        connect_timeout_s=patience_s(connect_timeout),
        policy=allowed,
        tokens={tier: found.secret for tier, found in shown.items() if found},
    )
    carried = parts(whole, workers)
    console = Console(highlight=False, markup=False)
    with interrupts() as noted, progress(console, FLEET_LINE_S) as show:

        def hear(progress: FleetProgress) -> None:
            noted.check()
            show(progress.line())

        quieten(verbose)
        if engine is Engine.RAY:
            found = carry_on_ray(carried, hear, address)
        elif len(carried) == 1:
            found = carry_here(carried[0], hear)
        else:
            found = carry_beside(carried, hear, verbose)
    console.print(found.line(), soft_wrap=True, markup=False)
    same = f"{counted(found.agree, 'client')} of {found.over:,} with the run's own digest"
    console.print(
        f"over at version {found.version}: {same} ({percent(found.agree / max(found.over, 1))}); "
        f"peak memory {amount(found.peak_bytes)}",
        soft_wrap=True,
        markup=False,
    )
    if found.lost:
        raise CommandError(f"{counted(found.lost, 'client')} could not go on: see the log above")


@contextmanager
def _sentences() -> Iterator[None]:
    """What a client would end with, as a command does."""
    from zowarmup.client.errors import Final
    from zowarmup.client.net.tls import TrustError

    try:
        yield
    except (Final, TrustError) as error:
        raise Usage(str(error)) from None


def experiment(
    table_file: Annotated[Path, typer.Argument(metavar="TABLE.toml", help="What is compared (docs/experiments.md).")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for all runs and what they came to (experiments/TABLE).")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where TABLE.csv, .md and .png go, if not there, too.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1024, help="Runs at a time; by cores and memory if not given.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Cells whose name fits, such as 'zowarmup-*'; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Run at most N more cells this time.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Name the cells, and run none.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep each run's ledger and weights, not only its results.")
    ] = False,
) -> None:
    """Run a table of a paper, or what is missing of it. Every cell is a real coordinator and fleet. Ctrl-C stops; the next
    start goes on."""
    from zowarmup.common.system.memory import memory_here
    from zowarmup.lab.experiments.conduct import ExperimentRunner, JobRequest, default_jobs
    from zowarmup.lab.experiments.grid import cells, trials
    from zowarmup.lab.experiments.table import read_table
    from zowarmup.lab.processes import held

    table = read_table(table_file)
    folder = out or Path("experiments") / table_file.stem
    console = Console(highlight=False, markup=False)

    def chosen(cell: "Cell") -> bool:
        return not only or any(fnmatchcase(cell.job.name, pattern) for pattern in only)

    if only and not any(chosen(cell) for method in table.method for cell in cells(table, method, {})):
        raise Usage(f"--only {' '.join(only)}: fits no cell; --list names them all")
    if list_only:
        every = [cell for method in table.method for cell in (*trials(table, method), *cells(table, method, {}))]
        for cell in every:
            if cell.trial or chosen(cell):
                after = f"  after {cell.job.after.name}" if cell.job.after else ""
                console.print(f"{cell.job.name}{after}", markup=False, soft_wrap=True)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = JobRequest(
        jobs=jobs or default_jobs(cores, memory_here().bytes, JOB_BYTES),
        limit=limit,
        chosen=chosen,
        keep=keep,
    )
    with (
        held(folder, "experiment", ("model-cache",)),
        interrupts() as noted,
        progress(console, EXPERIMENT_LINE_S) as show,
    ):
        conductor = ExperimentRunner(table, folder, wish, noted, lambda moment: show(moment.line()))
        found = conductor.run()
        noted.check()
        from zowarmup.lab.experiments.figure import write_results  # loads matplotlib

        written = write_results(table, found, os.path.relpath(table_file), results or folder, table_file.stem)
    for path in (conductor.moment().line(), *written):
        console.print(str(path), markup=False, soft_wrap=True)
    if found.failed:
        told = "\n".join(found.failed.values())
        raise CommandError(f"{len(found.failed)} jobs failed, and are tried again at the next start:\n{told}")
