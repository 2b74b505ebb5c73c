"""A running job: a coordinator in one process, its fleet in another, on a free port.

Nothing is asked of the coordinator while it works: it says in its log where it listens, leaves by itself when the run is
over, and its ledger says the rest.
"""

import re
import signal
import time
from pathlib import Path

from zowarmup.cli.failure import CommandError
from zowarmup.cli.interrupts import Interrupts
from zowarmup.common.exact.layout import digest
from zowarmup.common.system.whole_file import replacing
from zowarmup.lab.demo.demo import NO_PROXY, ONE_THREAD
from zowarmup.lab.demo.settings import allowing, to_toml
from zowarmup.lab.experiments.folders import Place
from zowarmup.lab.experiments.grid import Job
from zowarmup.lab.experiments.outcome import RunOutcome, read_outcome
from zowarmup.lab.processes import Ended, Processes, indented, last_lines
from zowarmup.server.store.archive import LEDGER, ArchiveError, open_archive
from zowarmup.server.store.ledger import LedgerError

SERVER, FLEET = "server", "fleet"
GAVE_UP = 3  # the exit code of a coordinator whose run has paused itself
LEAVE_S = 30.0
_LISTENING = re.compile(r"listening on (\S+) \(")
_AGREE = re.compile(r"over at version \d+: ([\d,]+) clients? of ([\d,]+) with the run's own digest")


class Running:
    """`job`, whose fingerprint is `wanted`, at work in `place`, beginning with the digest `began` (hex; empty: with what
    its run file says)."""

    def __init__(self, job: Job, place: Place, wanted: str, began: str, cache: Path, noted: Interrupts) -> None:
        self.job, self.place, self.wanted, self.began = job, place, wanted, began
        self.since = time.monotonic()
        self._left_at = 0.0
        self._fleet = False
        environment = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}
        self._processes = Processes(place.path, noted, environment)
        run_file = place.path / "run.toml"
        run_file.write_text(to_toml(job.run), encoding="utf-8")
        options = [str(run_file), "--data-dir", str(place.path / SERVER), "--model-cache", str(cache)]
        self._processes.start(SERVER, "zowarmup.server.main", [*options, "--exit-when-finished"])

    def over(self) -> bool:
        """Whether it is; meanwhile, start what is due. Raises CommandError where a process has failed."""
        ended = {end.name: end for end in self._processes.ended()}
        if server := ended.get(SERVER):
            if server.code == GAVE_UP:
                return True
            if server.code:
                raise self._failed(server)
        if (fleet := ended.get(FLEET)) and fleet.code:
            raise self._failed(fleet)
        if not self._fleet:
            if server:
                raise self._failed(server)
            self._follow()
            return False
        if server and not fleet:
            self._left_at = self._left_at or time.monotonic()
            return time.monotonic() > self._left_at + LEAVE_S
        return bool(server and fleet)

    def outcome(self) -> RunOutcome:
        """What it came to, once it is over and all processes are gone. Raises CommandError."""
        self.stop()
        data_dir = self.place.path / SERVER
        try:
            found = read_outcome(data_dir / LEDGER)
            if self.began and found.began != self.began:
                raise CommandError(
                    f"{self.job.name}: began with {found.began}, and its warm-up ended with {self.began}"
                )
            if not found.gave_up:
                self._check_replicas()
            if self.job.shared and not found.gave_up:
                _checkpoint(data_dir, found, self.place.checkpoint)
        except (LedgerError, ArchiveError) as error:
            raise CommandError(f"{self.job.name}: {error}") from error
        except OSError as error:
            raise CommandError(f"{self.place.path} cannot be written: {error.strerror or error}; make room") from error
        return found

    def stop(self) -> None:
        """End its processes: a coordinator that is stopped goes on at its next start."""
        self._processes.stop()

    def _follow(self) -> None:
        """Start the fleet, as soon as the coordinator says where it is."""
        try:
            said = _LISTENING.search(self._processes.log(SERVER).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return
        if said is None:
            return
        job = self.job
        fleet = ["fleet", "--server", said[1], "--clients", str(job.clients), "--high", str(job.high)]
        state = ["--data", job.data, "--state", str(self.place.path / FLEET), "--name", "client"]
        self._processes.start(FLEET, "zowarmup.cli.main", [*fleet, *state, *allowing(job.run.model)])
        self._fleet = True

    def _check_replicas(self) -> None:
        """Raises CommandError unless the fleet has said that all of its replicas are the run's."""
        log = self._processes.log(FLEET)
        lines = last_lines(log)
        said = [(line, found) for line in lines if (found := _AGREE.search(line))]
        if not said:
            raise CommandError(
                f"{self.job.name}: the fleet did not say how its replicas are:\n{indented(lines)}\nsee {log}"
            )
        line, found = said[-1]
        if found[1] != found[2]:
            raise CommandError(f"{self.job.name}: {line}; see {log}")

    def _failed(self, ended: Ended) -> CommandError:
        how = "left before the run was over" if ended.code == 0 else f"ended with code {ended.code}"
        if ended.code < 0:
            how = f"was killed by {signal.Signals(-ended.code).name}"
        return CommandError(
            f"{self.job.name}: the {ended.name} {how}; the last lines of {ended.log}:\n{indented(last_lines(ended.log))}"
        )


def _checkpoint(data_dir: Path, outcome: RunOutcome, file: Path) -> None:
    """Write the last weights, for others to begin with. Raises ArchiveError, or Failure where they are not those."""
    from safetensors.numpy import save

    archive = open_archive(data_dir)
    weights, _ = archive.weights(outcome.rounds)
    found = digest(weights).hex()
    if found != outcome.digest:
        raise CommandError(f"{data_dir}: version {outcome.rounds} has digest {found}, the run had {outcome.digest}")
    with replacing(file) as partial:
        partial.write_bytes(save(archive.layout.views(weights), metadata={"digest": found}))
