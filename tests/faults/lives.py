"""The processes of a run that faults happen to, and the links between them: each process may be killed and started again, with a log for each of
its lives."""

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.faults.proxy import Link
from zowarmup.cli.session.session import Session
from zowarmup.common.messages.values import Phase
from zowarmup.common.system.command import CommandError, Interrupts
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port

ACKNOWLEDGED = re.compile(r"round (\d+): the contribution is on the coordinator's disk")


class Lives:
    """Coordinators, each behind a link, and clients that are given all of these.

    Args:
        folder: For their files and logs.
        coordinators: Their names.
        clients: The tier of each, by name.
    """

    def __init__(self, folder: Path, coordinators: Iterable[str], clients: Mapping[str, str]) -> None:
        self.folder, self._clients = folder, clients
        (folder / "logs").mkdir(parents=True)
        self.processes = Processes(folder / "logs", Interrupts(), {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"})
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in coordinators}
        self.links = {name: Link(address) for name, address in self.addresses.items()}
        self._lives: dict[str, int] = {}

    def begin(self, name: str, module: str, options: Sequence[str]) -> None:
        """A process, or another life of one."""
        self._lives[name] = self._lives.get(name, 0) + 1
        self.processes.start(self._life(name), module, options)

    def join(self, name: str) -> None:
        """A client."""
        shard = list(self._clients).index(name) + 1
        servers = ",".join(link.address for link in self.links.values())
        options = ["--server", servers, "--data", f"digits:{shard}/{len(self._clients)}", "--tier", self._clients[name]]
        options += ["--name", name, "--state-dir", str(self.folder / "clients" / name), "--verbose"]
        self.begin(name, "zowarmup.client.main", options)

    def signal(self, name: str, number: signal.Signals) -> None:
        subprocess.run(["kill", f"-{number.value}", str(self.processes.pid(self._life(name)))], check=False)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.signal(name, signal.SIGKILL)
        while self._life(name) not in {ended.name for ended in self.processes.ended()}:
            time.sleep(0.01)

    def final(self) -> str | None:
        """The digest of the finished run, None while it is going on."""
        for address in self.addresses.values():
            with contextlib.suppress(CommandError), Session(address, deadline_s=2.0) as session:
                status = session.status()
                evaluated = status.evaluation is not None and status.evaluation.version == status.version
                return status.digest if status.phase is Phase.FINISHED and evaluated else None
        return None

    def failed(self) -> str:
        """A process that ended by itself before the run was over, as a sentence."""
        lives = {self._life(name) for name in self._lives}
        ended = [e for e in self.processes.ended() if e.name in lives and e.code not in (0, -9)]
        return ended[0].sentence() if ended else ""

    def acknowledged(self) -> set[tuple[str, int]]:
        """(client, round) of every contribution that a client was told is stored."""
        return {
            (name, int(round))
            for name in self._clients
            for said in self.said_by(name)
            for round in ACKNOWLEDGED.findall(said)
        }

    def said(self, name: str) -> str:
        """The log of a process's present life."""
        return self.processes.log(self._life(name)).read_text(errors="replace")

    def said_by(self, name: str) -> list[str]:
        """The logs of all its lives."""
        return [log.read_text(errors="replace") for log in (self.folder / "logs").glob(f"{name}.*.log")]

    def mend(self) -> None:
        """All links are as new."""
        for link in self.every_link():
            link.mend()
            link.delay_s = 0.0

    def every_link(self) -> list[Link]:
        return list(self.links.values())

    def close(self) -> None:
        """End the processes and the links."""
        self.processes.stop()
        for link in self.every_link():
            link.__exit__()

    def _life(self, name: str) -> str:
        return f"{name}.{self._lives[name]}"
