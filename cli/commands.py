"""The commands that `zowarmup` understands, and how each ends.

Commands raise CommandError with a sentence, which becomes one line on standard error and an exit code. What is slow to import
waits until a command needs it.
"""

import json
import platform
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zowarmup.cli import lab, operator, runs
from zowarmup.cli.options import DataDirOption, Reach, add_verbose, reaching
from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import CommandError, Interrupted, interrupts
from zowarmup.common.text import listed, printable_lines

app = typer.Typer(
    name="zowarmup",
    help="Federated training of a fleet whose devices differ: FedAvg warm-up, then zeroth-order rounds for everyone.",
    epilog="To see it work: zowarmup demo. Coordinators are started with zowarmup-server, devices with zowarmup-client; "
    "most commands ask a coordinator that runs. zowarmup COMMAND --help says more of each.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(lab.demo)
app.command()(lab.new)
PACKAGES = ("numpy", "grpcio", "protobuf", "onnxruntime", "torch")


def run() -> int:
    """Carry out the command line; the exit code. A wrong command line leaves by SystemExit(2), and a command by CommandError."""
    app()
    return 0


@app.command()
@reaching
def status(
    reach: Reach,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Where a run is, and what it waits for and why. Also its clients, metrics and bytes."""
    from zowarmup.cli.session.view import status_view

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
    """Every client: state, replica, memory, bytes."""
    from zowarmup.cli.listings import clients_text

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
    data_dir: Annotated[Path, DataDirOption],
    out: Annotated[Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.safetensors and PREFIX.onnx.")],
    version: Annotated[int | None, typer.Option(metavar="N", min=0, help="The newest if not given.")] = None,
) -> None:
    """Write the model as safetensors and as ONNX. Both say what its inputs and targets mean."""
    from zowarmup.cli.stored_run import export as write

    done = write(data_dir, version, out)
    for path in done.files:
        print(path)
    if done.remark:
        print(done.remark)
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
    """Check a run, and repair one on disk. Every event, every file, and every version recomputed; needs no server."""
    from zowarmup.cli.stored_run import fsck as look
    from zowarmup.cli.stored_run import report_text

    report = look(data_dir, repair)
    text = report_text(report, data_dir, as_json)
    print(text if as_json else printable_lines(text))
    if report.problems and not report.kept:
        raise CommandError(f"{data_dir} is damaged")


@app.command()
def backup(
    data_dir: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's data directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The copy: a folder that does not exist yet.")],
) -> None:
    """Copy a run while its coordinator goes on. The copy is whole, checked, and a data directory."""
    from zowarmup.cli.stored_run import backup as copy

    copied = copy(data_dir, out)
    print(f"{out}: {copied.run}, version {copied.version}, digest {copied.digest}, {copied.size_bytes / 1e6:.1f} MB")


@app.command()
def restore(
    copy: Annotated[
        Path, typer.Argument(metavar="COPY", help="A copy, or the data directory of a stopped coordinator.")
    ],
    store: Annotated[
        str, typer.Option(metavar="URL", help="As server.store in the run file; its schema must hold no run.")
    ],
) -> None:
    """Bring a copy of a run into a PostgreSQL database. Into files, a copy need not be brought: it is a data directory."""
    from zowarmup.cli.stored_run import restore as bring

    done = bring(copy, store)
    print(f"{done.run}, version {done.version}, digest {done.digest}, {done.size_bytes / 1e6:.1f} MB of blobs")


@app.command()
def report(
    data_dir: Annotated[
        Path, typer.Argument(envvar=DATA_DIR_VARIABLE, metavar="DIR", help="The coordinator's data directory.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
) -> None:
    """Write a run's page as one HTML file: curves, bytes, devices. Of a run that goes on or is over; needs no server."""
    from zowarmup.cli.stored_run import write_page

    print(write_page(data_dir, out))


@app.command(add_help_option=False)
def doctor() -> None:
    """What keeps this device from taking part. The same as zowarmup-client --doctor; needs no operator's packages."""
    raise AssertionError("unreachable: zowarmup.cli.main hands it to the client, whose options it has")


@app.command()
def version() -> None:
    """The versions of zowarmup and of what it stands on."""
    for name, text in installed().items():
        print(f"{name:<12} {text}")


def installed() -> dict[str, str]:
    """Versions by name, from the packages' metadata: asking for torch's must not import torch."""
    return {
        "zowarmup": _version("zowarmup"),
        "protocol": str(PROTOCOL),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@app.command()
def plan(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    high: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=1_000_000, help="High-tier clients; as many as a round asks for if not given."
        ),
    ] = None,
    low: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=1_000_000, help="Low-tier clients; the same.")
    ] = None,
    examples: Annotated[int, typer.Option(metavar="N", min=1, max=1 << 32, help="How many each client holds.")] = 1000,
    up: Annotated[str, typer.Option(metavar="RATE", help="A client's uplink: 250kbit, 10Mbit.")] = "10Mbit",
    down: Annotated[str, typer.Option(metavar="RATE", help="Its downlink.")] = "50Mbit",
    speed: Annotated[
        float, typer.Option(metavar="X", min=1e-4, max=1e4, help="How fast it computes; one thread here is 1.")
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What a run will cost, by tier, beside FedAvg at equal rounds. Bytes and time of its rounds, memory of its devices."""
    from zowarmup.cli.plan import PlannedLink, bits_per_second, make_plan
    from zowarmup.cli.plan_view import plan_view

    link = PlannedLink(bits_per_second("--up", up), bits_per_second("--down", down), speed)
    made = make_plan(run_file, high, low, examples, link)
    if as_json:
        print(json.dumps(made.to_json(), indent=2))
    else:
        Console(highlight=False, markup=False).print(plan_view(made))


app.command()(runs.runs)
operator.register(app)
for command in (lab.fleet, lab.experiment):
    app.command()(command)
add_verbose(app)
