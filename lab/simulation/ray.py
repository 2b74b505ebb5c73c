"""A simulated fleet on a Ray cluster: each share is an actor.

An actor carries its part as a process of this machine would; its state is a folder on the node that it runs on, of which
nothing is lost with the node but a replica, since credentials follow from the fleet's secret, which travels with the
part. The cluster's GPUs, where it has any, are shared out among the actors in equal fractions.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from zowarmup.cli.failure import CommandError
from zowarmup.lab.simulation.part import FleetProgress, FleetShare, together

ASK_EVERY_S, GRACE_S, CONNECT_S = 0.5, 10.0, 10.0


class _LeftCluster(Exception):
    """Whoever follows this part wants no more of it."""


class Carrier:
    """What runs on a node: `carry` takes as long as the run does, and the others answer meanwhile."""

    def __init__(self, part: FleetShare) -> None:
        self._part = part
        self._progress = FleetProgress(clients=part.count)
        self._leave = threading.Event()

    def carry(self) -> tuple[FleetProgress, str]:
        """The part's end: how far it was and, where it failed, a sentence."""
        from zowarmup.client.errors import ComputingStopped, Final
        from zowarmup.data import DataError
        from zowarmup.lab.simulation.host import host
        from zowarmup.lab.simulation.log_throttle import quieten

        quieten(False)
        try:
            self._tell(asyncio.run(host(self._part, self._tell)))
        except (Final, DataError) as error:
            return self._progress, str(error)
        except (_LeftCluster, ComputingStopped):
            pass
        return self._progress, ""

    def progress(self) -> FleetProgress:
        return self._progress

    def leave(self) -> None:
        self._leave.set()

    def _tell(self, progress: FleetProgress) -> None:
        self._progress = progress
        if self._leave.is_set():
            raise _LeftCluster


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
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():  # "auto" and the like
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
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
            ray.wait([*left, *carried], num_returns=len(left) + len(carried), timeout=GRACE_S)
        for actor in actors:
            ray.kill(actor)
