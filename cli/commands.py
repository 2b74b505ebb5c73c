"""The commands that `zowarmup` understands, and how each ends.

Commands raise Failure with a sentence, which becomes one line on standard error and an exit code. What is slow to import
waits until a command needs it.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zowarmup.cli import operator, verbose
from zowarmup.cli.connection import Reach, reaching
from zowarmup.cli.failure import CommandError, Interrupted
from zowarmup.cli.interrupts import interrupts
from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE
from zowarmup.common.system.printable import printable_lines
from zowarmup.lab.demo.settings import DemoModel, demo_settings
from zowarmup.lab.experiments import experiment_command
from zowarmup.lab.simulation import fleet_command

app = typer.Typer(
    name="zowarmup",
    help="Federated training of a fleet whose devices differ: FedAvg warm-up, then zeroth-order rounds for everyone.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SEED_MAX = (1 << 63) - 1


def run() -> int:
    """Carry out the command line; the exit code. A wrong command line leaves by SystemExit(2), and a command by Failure."""
    app()
    return 0


@app.command()
def demo(
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=SEED_MAX, help="Decides everything that is drawn.")] = 0,
    high: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="High-tier clients.")] = 1,
    low: Annotated[int, typer.Option(metavar="N", min=0, max=100, help="Low-tier clients.")] = 9,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for run file, logs and report.")] = Path("demo"),
    rounds: Annotated[int | None, typer.Option(metavar="N", min=1, max=100_000, help="Zeroth-order rounds.")] = None,
    model: Annotated[DemoModel, typer.Option(help="What to train.")] = DemoModel.MLP,
    alpha: Annotated[
        float, typer.Option(metavar="A", min=0.001, max=1000, help="Small: each client has few classes.")
    ] = 0.1,
    paper_mode: Annotated[bool, typer.Option("--paper-mode", help="Probe as the paper does (docs/method.md).")] = False,
) -> None:
    """Train a fleet of processes on this machine. It writes a report; Ctrl-C stops all of it."""
    from zowarmup.lab.demo.demo import DemoPlan, conduct
    from zowarmup.lab.demo.report import write_report
    from zowarmup.lab.demo.view import result_view, stage

    settings = demo_settings(model, paper_mode, rounds)
    plan = DemoPlan(
        out=out,
        seed=seed,
        model=model.value,
        high=high,
        low=low,
        alpha=alpha,
        settings=settings,
        paper_mode=paper_mode,
    )
    console = Console(highlight=False, markup=False)
    with interrupts() as noted:
        with stage(console) as show:
            result = conduct(plan, noted, show)
        console.print(result_view(result))
        noted.check()
        written = write_report(result, out)
        console.print("\n" + " and ".join(str(path) for path in written), markup=False, soft_wrap=True)
    if not result.replicas_equal:
        raise CommandError(f"the replicas were not shown to be equal; see the logs in {out / 'logs'}")


@app.command()
@reaching
def status(
    reach: Reach,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Where a run is, and what it waits for and why. Also its clients, metrics and bytes."""
    from zowarmup.cli.status_view import status_view

    reach.session.run()  # refuses a coordinator of another protocol
    found = reach.session.status()
    if as_json:
        print(json.dumps(found.to_json(), indent=2, allow_nan=False))
    else:
        Console(highlight=False, markup=False).print(status_view(found))


@app.command()
@reaching
def clients(
    reach: Reach,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Every client: state, replica, memory, bytes on the wire."""
    from zowarmup.cli.clients import clients_text

    reach.session.run()
    found = reach.session.clients()
    if as_json:
        print(json.dumps([client.to_json() for client in found], indent=2, allow_nan=False))
    else:
        print(clients_text(found, Console().width if sys.stdout.isatty() else None))


@app.command()
@reaching
def watch(reach: Reach) -> None:
    """The status, live, with the curve and the time left. It ends with the run, or with Ctrl-C."""
    from zowarmup.cli.watch import watch as follow

    with interrupts() as noted:
        reach.session.run()
        try:
            follow(reach.session, noted, Console(highlight=False, markup=False))
        except Interrupted as interrupted:
            if interrupted.number != signal.SIGINT:  # Ctrl-C is how one leaves
                raise


@app.command()
def export(
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", envvar=DATA_DIR_VARIABLE, metavar="DIR", help="The coordinator's data directory."),
    ],
    out: Annotated[Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.safetensors and PREFIX.onnx.")],
    version: Annotated[int | None, typer.Option(metavar="N", min=0, help="The newest if not given.")] = None,
) -> None:
    """Write the model as safetensors and as ONNX. Both say what its inputs and targets mean."""
    from zowarmup.cli.export import export as write
    from zowarmup.common.settings.data_card import listed

    done = write(data_dir, version, out)
    for path in done.files:
        print(path)
    print(f"version {done.version}, digest {done.digest}")
    print(f"inputs: {done.card.recipe}")
    if done.card.classes:
        names = done.card.class_names
        print(f"classes: {listed(f'{label} = {name}' for label, name in enumerate(names)) or done.card.classes}")


@app.command()
def fsck(
    data_dir: Annotated[
        Path, typer.Argument(envvar=DATA_DIR_VARIABLE, metavar="DIR", help="The coordinator's data directory.")
    ],
    repair: Annotated[bool, typer.Option("--repair", help="Go back to the last good version if need be.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Check a run on disk, and repair it. Every event, every file, and every version computed anew; needs no server."""
    from zowarmup.cli.fsck import fsck as look
    from zowarmup.cli.fsck import told

    report = look(data_dir, repair)
    text = told(report, data_dir, as_json)
    print(text if as_json else printable_lines(text))
    if report.problems and not report.kept:
        raise CommandError(f"{data_dir} is damaged")


@app.command()
def backup(
    data_dir: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's data directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The copy: a folder that does not exist yet.")],
) -> None:
    """Copy a run on disk while its coordinator goes on. The copy is whole, checked, and a data directory."""
    from zowarmup.cli.fsck import backup as copy

    copied = copy(data_dir, out)
    print(f"{out}: {copied.run}, version {copied.version}, digest {copied.digest}, {copied.size_bytes / 1e6:.1f} MB")


@app.command(add_help_option=False)
def doctor() -> None:
    """What keeps this device from taking part. The same as zowarmup-client --doctor; needs no operator's packages."""
    raise AssertionError("unreachable: zowarmup.cli.main hands it to the client, whose options it has")


@app.command()
def version() -> None:
    """The versions of zowarmup and of what it stands on."""
    from zowarmup.cli.versions import installed

    for name, text in installed().items():
        print(f"{name:<12} {text}")


@app.command()
def plan(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    high: Annotated[int | None, typer.Option(metavar="N", min=0, max=1_000_000, help="High-tier clients.")] = None,
    low: Annotated[int | None, typer.Option(metavar="N", min=0, max=1_000_000, help="Low-tier clients.")] = None,
    examples: Annotated[int, typer.Option(metavar="N", min=1, max=1 << 32, help="How many each client holds.")] = 1000,
    up: Annotated[str, typer.Option(metavar="RATE", help="A client's uplink: 250kbit, 10Mbit.")] = "10Mbit",
    down: Annotated[str, typer.Option(metavar="RATE", help="Its downlink.")] = "50Mbit",
    speed: Annotated[
        float, typer.Option(metavar="X", min=1e-4, max=1e4, help="How fast it computes; one thread here is 1.")
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What a run will cost, by tier, beside FedAvg at equal rounds. Bytes and time of its rounds, memory of its devices."""
    from zowarmup.cli.forecast import PlannedLink
    from zowarmup.cli.plan import bits_per_second, make_plan
    from zowarmup.cli.plan_view import plan_view

    link = PlannedLink(bits_per_second("--up", up), bits_per_second("--down", down), speed)
    made = make_plan(run_file, high, low, examples, link)
    if as_json:
        print(json.dumps(made.to_json(), indent=2))
    else:
        Console(highlight=False, markup=False).print(plan_view(made))


operator.register(app)
fleet_command.register(app)
experiment_command.register(app)
verbose.register(app)
