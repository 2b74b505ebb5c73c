"""A simulated fleet: its shares in this process, in several, or on a Ray cluster.

Whatever carries a share tells how far it is several times a second, and is stopped by what hears it. Processes end when
they are told to, or when this one is gone. On a Ray cluster each share is an actor; its state is a folder on the node that
it runs on, of which nothing is lost with the node but a replica, since credentials follow from the fleet's secret, which
travels with the share. The cluster's GPUs, where it has any, are shared out among the actors in equal fractions.
"""

import asyncio
import logging
import multiprocessing
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.store.directory import write_whole
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.system.ending import GRACE_S, sentence
from zowarmup.common.system.files import TomlError, make_private, read_given, read_toml, strangers
from zowarmup.common.system.pdeathsig import end_with_parent
from zowarmup.data import DataError
from zowarmup.lab.simulation.host import host, quieten
from zowarmup.lab.simulation.part import FleetProgress, FleetShare, together
from zowarmup.lab.simulation.profiles import BUILT_IN, Mix, parse

SECRET = "fleet.secret"
ASK_EVERY_S, NODE_GRACE_S, CONNECT_S = 0.5, 10.0, 10.0
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


class Carrier:
    """What runs on a node: `carry` takes as long as the run does, and the others answer meanwhile."""

    def __init__(self, part: FleetShare) -> None:
        self._part = part
        self._progress = FleetProgress(clients=part.count)
        self._leave = threading.Event()

    def carry(self) -> tuple[FleetProgress, str]:
        """The part's end: how far it was and, where it failed, a sentence."""
        quieten(False)
        try:
            self._tell(asyncio.run(host(self._part, self._tell)))
        except (Final, DataError) as error:
            return self._progress, str(error)
        except (_Left, ComputingStopped):
            pass
        return self._progress, ""

    def progress(self) -> FleetProgress:
        return self._progress

    def leave(self) -> None:
        self._leave.set()

    def _tell(self, progress: FleetProgress) -> None:
        self._progress = progress
        if self._leave.is_set():
            raise _Left


def carry_on_ray(parts: Sequence[FleetShare], hear: Callable[[FleetProgress], None], address: str) -> FleetProgress:
    """Each part by an actor on the cluster at `address`. Raises CommandError, and whatever `hear` raises."""
    try:
        import ray
    except ImportError:
        raise CommandError("--engine ray needs Ray, which is not installed: pip install 'zowarmup[ray]'") from None
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CommandError(
            f"no Ray cluster answers at {address!r} ({first}): start one with `ray start --head`"
        ) from None
    try:
        return _follow(ray, parts, hear)
    except ray.exceptions.RayError as error:
        raise CommandError(
            f"a part of the fleet was lost with its node: {str(error).strip().splitlines()[0]}"
        ) from None
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself asks for minutes before it gives up. Raises CommandError."""
    name, _, port = address.rpartition(":")
    if not name or not port.isdigit():  # "auto" and the like
        return
    try:
        socket.create_connection((name, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise CommandError(
            f"no Ray cluster answers at {address!r} ({getattr(error, 'strerror', None) or error}): start one with "
            "`ray start --head`"
        ) from None


def _follow(ray: Any, parts: Sequence[FleetShare], hear: Callable[[FleetProgress], None]) -> FleetProgress:
    # Ray gives out ten-thousandths of a GPU; more than one for a part would stand idle.
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) * 10000 // len(parts) / 10000)
    # One thread carries, two answer. Spread, so that no node carries everything while others are idle.
    kind = ray.remote(Carrier).options(num_cpus=1, num_gpus=gpus, max_concurrency=3, scheduling_strategy="SPREAD")
    actors = [kind.remote(part) for part in parts]
    told = [FleetProgress(clients=part.count) for part in parts]
    carried = {actor.carry.remote(): place for place, actor in enumerate(actors)}
    asked = {actor.progress.remote(): place for place, actor in enumerate(actors)}
    try:
        while carried:
            ready, _ = ray.wait([*carried, *asked], num_returns=1, timeout=ASK_EVERY_S)
            for answer in ready:
                if (place := carried.pop(answer, None)) is not None:
                    told[place], fault = ray.get(answer)
                    if fault:
                        raise CommandError(fault)
                    asked = {question: other for question, other in asked.items() if other != place}
                elif (place := asked.pop(answer, None)) is not None:
                    told[place] = ray.get(answer)
            hear(together(told))
            if not asked:
                ray.wait(list(carried), num_returns=len(carried), timeout=ASK_EVERY_S)
                asked = {actors[place].progress.remote(): place for place in carried.values()}
        return together(told)
    finally:
        left = [actors[place].leave.remote() for place in carried.values()]
        if left:
            ray.wait([*left, *carried], num_returns=len(left) + len(carried), timeout=NODE_GRACE_S)
        for actor in actors:
            ray.kill(actor)
