"""An experiment on disk: a folder for each job, and what of it is kept at the next start.

OUT/cells/NAME/begun       the fingerprint of the work that was begun here
OUT/cells/NAME/outcome.json   what it came to, and its fingerprint: there only once it is over
OUT/cells/NAME/checkpoint.safetensors   of a warm-up, the weights that others begin with
OUT/cells/NAME/run.toml, server.log, fleet.log
OUT/cells/NAME/server, fleet   the run itself, until it is over
OUT/model-cache            models, built once (zowarmup-server --model-cache)
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from zowarmup.cli.failure import CommandError
from zowarmup.common.system.files import open_lock, read_given, replacing, strangers
from zowarmup.lab.experiments.outcome import RunOutcome

HELD = ".experiment"
LONGEST_OUTCOME_BYTES = 1 << 26
BEGUN, OUTCOME, CHECKPOINT = "begun", "outcome.json", "checkpoint.safetensors"
RUNS = ("server", "fleet")


class FolderUse(Enum):
    """What becomes of a job whose folder may hold something already."""

    KEEP = "it is over"
    GO_ON = "it goes on where it was stopped"
    ANEW = "it begins, and what else is there is removed"


def folder_use(wanted: str, begun: str, over: str) -> FolderUse:
    """By the fingerprints of the work that is wanted, that was begun here and that is over; empty where there is none."""
    if over == wanted:
        return FolderUse.KEEP
    return FolderUse.GO_ON if begun == wanted and not over else FolderUse.ANEW


@dataclass(frozen=True)
class Place:
    """A job's folder."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def find(self, wanted: str, checkpoint: bool) -> tuple[FolderUse, RunOutcome | None]:
        """What to do with work of that fingerprint, and its outcome where it is over. `checkpoint`: whether others need
        it."""
        over, outcome = "", None
        try:
            raw = json.loads(read_given(self.path / OUTCOME, LONGEST_OUTCOME_BYTES))
            outcome, over = RunOutcome.from_json(json.dumps(raw["outcome"])), str(raw["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if checkpoint and not self.checkpoint.exists():
            over, outcome = "", None
        decision = folder_use(wanted, _text(self.path / BEGUN), over)
        return decision, outcome if decision is FolderUse.KEEP else None

    def begin(self, wanted: str, decision: FolderUse) -> None:
        """Make it ready. Raises OSError."""
        if decision is FolderUse.ANEW and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / BEGUN).write_text(wanted, encoding="utf-8")

    def settle(self, wanted: str, outcome: RunOutcome, keep: bool) -> None:
        """It is over: its outcome stays and, unless `keep`, the run itself goes. Raises CommandError."""
        said = {"fingerprint": wanted, "outcome": json.loads(outcome.to_json())}
        try:
            with replacing(self.path / OUTCOME) as partial:
                partial.write_text(json.dumps(said, indent=1), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written: {error.strerror or error}; make room") from error
        if not keep:
            for name in RUNS:
                shutil.rmtree(self.path / name, ignore_errors=True)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """The experiment's folder, made if need be. Raises CommandError where another experiment is at work in it."""
    try:
        if not (out / HELD).exists() and (found := strangers(out, ("model-cache",))):
            raise CommandError(
                f"--out {out} is not empty, and not from an earlier experiment ({found}): name another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        lock = open_lock(out / HELD)
    except OSError as error:
        raise CommandError(f"--out {out}: {error.strerror or error}; name a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(f"another experiment is at work in {out}: name another folder with --out") from None
        yield


def _text(file: Path) -> str:
    try:
        return read_given(file).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
