"""A simulated fleet in this process or in several.

One part runs in this process; more run in processes of their own, which end when they are told to, or when this one is
gone. Whatever carries them tells how far it is several times a second, and is stopped by what hears it.
"""

import asyncio
import logging
import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from zowarmup.cli.failure import CommandError, Usage
from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.store.directory import write_whole
from zowarmup.common.system.ending import GRACE_S, sentence
from zowarmup.common.system.files import TomlError, make_private, read_given, read_toml, strangers
from zowarmup.common.system.pdeathsig import end_with_parent
from zowarmup.data import DataError
from zowarmup.lab.simulation.host import host
from zowarmup.lab.simulation.log_throttle import quieten
from zowarmup.lab.simulation.part import FleetProgress, FleetShare, together
from zowarmup.lab.simulation.profiles import BUILT_IN, Mix, parse

SECRET = "fleet.secret"
Hear = Callable[[FleetProgress], None]


class _Left(Exception):
    """Whoever follows this part wants no more of it."""


def mix(profile: str) -> Mix:
    """The devices that --profile names: a built-in profile, or a TOML file of several; empty: as their host. Raises
    Usage."""
    if not profile:
        return Mix()
    if profile in BUILT_IN:
        return Mix(profiles=(BUILT_IN[profile],))
    try:
        return parse(read_toml(Path(profile)))
    except TomlError as error:
        raise Usage(f"--profile must be {', '.join(BUILT_IN)}, or a TOML file that can be read: {error}") from None
    except ValueError as error:
        raise Usage(f"--profile {profile}: {error}") from None


def secret(folder: Path) -> bytes:
    """What the members' credentials follow from: the same for the same folder. Raises CommandError."""
    file = folder / SECRET
    try:
        if not file.exists() and (others := strangers(folder, (f"{SECRET}*",))):
            raise CommandError(
                f"--state {folder} is not empty and holds no fleet's state ({others}): name a new or an empty folder"
            )
        make_private(folder)
        if not file.exists():
            write_whole(file, secrets.token_bytes(32))
        found = read_given(file)
    except OSError as error:
        raise CommandError(
            f"cannot use --state {folder} ({error.strerror}): give a folder that you can write"
        ) from None
    except Final as error:
        raise CommandError(str(error)) from None
    if len(found) != 32:
        raise CommandError(f"{file} is damaged: remove it, and the fleet enrols anew")
    return found


def carry_here(part: FleetShare, hear: Hear) -> FleetProgress:
    """In this process. Raises CommandError, and whatever `hear` raises."""
    try:
        return asyncio.run(host(part, hear))
    except (Final, DataError) as error:
        raise CommandError(str(error)) from None


def carry_beside(parts: Sequence[FleetShare], hear: Hear, verbose: bool) -> FleetProgress:
    """Each in a process of its own. Raises CommandError, and whatever `hear` raises."""
    context = multiprocessing.get_context("spawn")
    carriers: dict[Connection, BaseProcess] = {}
    told: dict[Connection, FleetProgress] = {}
    try:
        for part in parts:
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_carry, args=(part, theirs, verbose))
            process.start()
            theirs.close()
            carriers[ours], told[ours] = process, FleetProgress(clients=part.count)
        open_ones = set(carriers)
        while open_ones:
            for connection in wait(list(open_ones), timeout=0.25):
                assert isinstance(connection, Connection)
                try:
                    said = connection.recv()
                except EOFError:
                    said = "a part of the fleet ended without a word: see what the system says about memory"
                if isinstance(said, str):
                    raise CommandError(said)
                if said is None:
                    open_ones.discard(connection)
                else:
                    told[connection] = said
            hear(together(list(told.values())))
        return together(list(told.values()))
    finally:
        for connection in carriers:
            connection.close()  # which is how they hear that it is over
        end = time.monotonic() + GRACE_S
        for process in carriers.values():
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()


def _carry(part: FleetShare, parent: Connection, verbose: bool) -> None:
    """In a process of its own: progress, at last None, or a sentence where it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to decide
    if (started_by := multiprocessing.parent_process()) is not None and started_by.pid:
        end_with_parent(started_by.pid)
    quieten(verbose)

    def tell(progress: FleetProgress) -> None:
        try:
            if parent.poll():
                parent.recv()
            parent.send(progress)
        except (OSError, EOFError):
            raise _Left from None

    try:
        try:
            tell(asyncio.run(host(part, tell)))
            parent.send(None)
        except (Final, DataError) as error:
            parent.send(str(error))
        except (_Left, ComputingStopped, OSError):
            raise
        except Exception as error:
            logging.getLogger(__name__).debug("a part of the fleet failed", exc_info=True)
            parent.send(sentence(error))
    except (_Left, ComputingStopped, OSError):
        logging.getLogger(__name__).debug("told to leave")
