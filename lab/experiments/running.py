"""A job of an experiment: its folder, and its processes, a coordinator and a fleet.

Nothing is asked of the coordinator while it works: it says in its log where it listens, leaves by itself when the run is
over, and its ledger says the rest.

OUT/cells/NAME/begun       the fingerprint of the work that was begun here
OUT/cells/NAME/outcome.json   what it came to, and its fingerprint: there only once it is over
OUT/cells/NAME/checkpoint.safetensors   of a warm-up, the weights that others begin with
OUT/cells/NAME/run.toml, server.log, fleet.log
OUT/cells/NAME/server, fleet   the run itself, until it is over
OUT/model-cache            models, built once (zowarmup-server --model-cache)
"""

import json
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from zowarmup.common.exact.layout import Layout
from zowarmup.common.system.command import CommandError, Interrupts
from zowarmup.common.system.files import read_given, replacing
from zowarmup.common.untrusted import strictly
from zowarmup.lab.demo.settings import allowing, to_toml
from zowarmup.lab.experiments.grid import Job
from zowarmup.lab.experiments.outcome import RunOutcome, read_outcome
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Ended, Processes, indented, last_lines
from zowarmup.server.setup.weights_file import load_weights
from zowarmup.server.store.archive import LEDGER, ArchiveError, open_archive
from zowarmup.server.store.ledger import LedgerError

LONGEST_OUTCOME_BYTES = 1 << 26
BEGUN, OUTCOME, CHECKPOINT = "begun", "outcome.json", "checkpoint.safetensors"
RUNS = ("server", "fleet")


@dataclass(frozen=True)
class Place:
    """A job's folder."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def find(self, wanted: str, checkpoint: bool) -> RunOutcome | None:
        """The outcome of work of that fingerprint, where it is over. `checkpoint`: whether others need it."""
        try:
            raw = json.loads(read_given(self.path / OUTCOME, LONGEST_OUTCOME_BYTES))
            outcome, over = strictly(RunOutcome, raw["outcome"], OUTCOME), raw["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return outcome if over == wanted and (self.checkpoint.exists() or not checkpoint) else None

    def begin(self, wanted: str) -> None:
        """Make it ready: the same work goes on where it was stopped, other work begins anew. Raises OSError."""
        if _text(self.path / BEGUN) != wanted and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / BEGUN).write_text(wanted, encoding="utf-8")

    def settle(self, wanted: str, outcome: RunOutcome, keep: bool) -> None:
        """It is over: its outcome stays and, unless `keep`, the run itself goes. Raises CommandError."""
        said = {"fingerprint": wanted, "outcome": asdict(outcome)}
        try:
            with replacing(self.path / OUTCOME) as partial:
                partial.write_text(json.dumps(said, indent=1), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written: {error.strerror or error}; make room") from error
        if not keep:
            for name in RUNS:
                shutil.rmtree(self.path / name, ignore_errors=True)


def _text(file: Path) -> str:
    try:
        return read_given(file).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


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
            if self.began:
                expected = _digest_of(Path(self.job.run.model.weights), open_archive(data_dir).layout)
                if found.began != expected:
                    raise CommandError(
                        f"{self.job.name}: began with {found.began}, and not with its warm-up's {expected}"
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
        self._processes.start(FLEET, "zowarmup.cli.main", [*fleet, *state, *allowing(job.run)])
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
        return CommandError(f"{self.job.name}: the {ended.sentence()}")


def _digest_of(checkpoint: Path, layout: Layout) -> str:
    """The digest, hex, of a checkpoint's weights in the order of a layout: what a run freezes changes the order."""
    import numpy as np

    weights = np.empty(layout.size, np.float32)
    load_weights(checkpoint, layout, weights)
    return layout.digest(weights).hex()


def _checkpoint(data_dir: Path, outcome: RunOutcome, file: Path) -> None:
    """Write the last weights, for others to begin with. Raises ArchiveError, or CommandError where they are not those."""
    from safetensors.numpy import save

    archive = open_archive(data_dir)
    weights, _ = archive.weights(outcome.rounds)
    found = archive.layout.digest(weights).hex()
    if found != outcome.digest:
        raise CommandError(f"{data_dir}: version {outcome.rounds} has digest {found}, the run had {outcome.digest}")
    with replacing(file) as partial:
        partial.write_bytes(save(archive.layout.views(weights), metadata={"digest": found}))
