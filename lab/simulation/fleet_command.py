"""`zowarmup fleet`: its options, its line of progress, and how it ends."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from zowarmup.cli.connection import DEFAULT_ADDRESS
from zowarmup.cli.failure import CommandError, Usage
from zowarmup.cli.interrupts import Interrupts, interrupts
from zowarmup.cli.units import counted, percent, size
from zowarmup.common.settings.addresses import SERVER_VARIABLE, host_and_port

if TYPE_CHECKING:
    from zowarmup.lab.simulation.part import FleetProgress

MOST_CLIENTS = 100_000
LINE_EVERY_S = 5.0


class Engine(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def fleet(
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=MOST_CLIENTS, help="How many.")],
    data: Annotated[
        str,
        typer.Option(metavar="SPEC", help="What they share: digits, cifar10:PATH, npz:PATH, ... [,alpha=0.1][,seed=0]"),
    ],
    server: Annotated[
        str, typer.Option(envvar=SERVER_VARIABLE, metavar="HOST:PORT", help="The coordinator.")
    ] = DEFAULT_ADDRESS,
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
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=(1 << 63) - 1, help="Deals profiles and drop-outs.")] = 0,
    engine: Annotated[Engine, typer.Option(help="Where the processes are.")] = Engine.LOCAL,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="The Ray cluster, with --engine ray.")] = "auto",
    join_file: Annotated[
        Path | None, typer.Option("--join-file", metavar="FILE", help="Invitation for low clients.")
    ] = None,
    join_file_high: Annotated[
        Path | None, typer.Option("--join-file-high", metavar="FILE", help="Invitation for high clients.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM: who signs the coordinator's certificate.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM: the fleet's own, where asked for.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM: the key of --certificate.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Send everything, secrets too, in plain text.")] = False,
    connect_timeout: Annotated[
        float | None,
        typer.Option(
            "--connect-timeout",
            metavar="S",
            min=0.0,
            help="Give up where nobody answers, s (60 on a terminal; 0: never).",
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
    from zowarmup.lab.simulation.fleet import carry_beside, carry_here, mix, secret
    from zowarmup.lab.simulation.log_throttle import quieten
    from zowarmup.lab.simulation.part import FleetShare, parts

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
        host_and_port(server)
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
    with interrupts() as noted, _line(console, noted) as hear:
        quieten(verbose)
        if engine is Engine.RAY:
            from zowarmup.lab.simulation.ray import carry_on_ray

            found = carry_on_ray(carried, hear, address)
        elif len(carried) == 1:
            found = carry_here(carried[0], hear)
        else:
            found = carry_beside(carried, hear, verbose)
    _close(found, console)


@contextmanager
def _line(console: Console, noted: Interrupts) -> Iterator[Callable[["FleetProgress"], None]]:
    """What hears of progress and shows it: on a terminal one line redrawn in place, elsewhere one every few seconds. It
    raises Interrupted where a signal has come."""
    if console.is_terminal:
        with Live(Text("starting"), console=console, auto_refresh=False, transient=True) as live:

            def redraw(progress: "FleetProgress") -> None:
                noted.check()
                live.update(Text(progress.line(), overflow="ellipsis", no_wrap=True), refresh=True)

            yield redraw
        return
    said, at = "", 0.0

    def say(progress: "FleetProgress") -> None:
        nonlocal said, at
        noted.check()
        line, now = progress.line(), time.monotonic()
        if line != said and now >= at + LINE_EVERY_S:
            said, at = line, now
            console.print(line, soft_wrap=True, markup=False)

    yield say


def _close(found: "FleetProgress", console: Console) -> None:
    console.print(found.line(), soft_wrap=True, markup=False)
    same = f"{counted(found.agree, 'client')} of {found.over:,} with the run's own digest"
    console.print(
        f"over at version {found.version}: {same} ({percent(found.agree / max(found.over, 1))}); "
        f"peak memory {size(found.peak_bytes)}",
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


def register(app: typer.Typer) -> None:
    """Add it to the command."""
    app.command()(fleet)
