"""A project: a folder with a run file, the code that it names, and data.

The run file names the held-out set, which is a file or a folder, as `npz:data/held-out.npz`. The devices' data is beside it, one
file or folder a device, of the same form: `data/client-1.npz`, `data/client-2.npz` and so on. Where there is none yet, the project's
`make_data.py` makes it.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.text import counted
from zowarmup.lab.demo.demo import DemoClient, DemoPlan
from zowarmup.lab.processes import indented
from zowarmup.lab.projects.templates import RUN_FILE
from zowarmup.server.setup.run_file import RunFileError, read_run_file

MAKE_DATA = "make_data.py"
CLIENT = "client-"
KINDS = ("npz", "csv", "tsv", "jsonl", "folder")
LINES_SHOWN = 8
_OPTIONS = re.compile(r",(?=[a-z]+=)")


@dataclass(frozen=True, slots=True)
class Project:
    """A project with its data. `folder` is absolute; `parts`: the spec of each device's data, by the device's name."""

    folder: Path
    run: RunFile
    parts: dict[str, str]

    def demo(self, out: Path, high: int | None) -> DemoPlan:
        """What a demo of it runs: a client for each part.

        Args:
            out: The folder for what comes of it.
            high: So many clients, the first, are of the high tier; None: as many as a round of the warm-up needs.

        Raises:
            Usage: There are not so many, or too few for a round.
        """
        warmup, zeroth_order = self.run.warmup, self.run.zeroth_order
        needed = (warmup.minimum_clients or warmup.clients_per_round) if warmup.rounds else 0
        training = needed if high is None else high
        if training > len(self.parts):
            raise Usage(f"--high {training}: must be at most {len(self.parts)}, the devices whose data is there")
        if needed > training:
            raise Usage(f"--high {training}: a round of the warm-up needs {needed}: see {self.folder / RUN_FILE}")
        everyone = (zeroth_order.minimum_clients or zeroth_order.clients_per_round) if zeroth_order.rounds else 0
        if everyone > len(self.parts):
            raise Usage(
                f"{self.folder / RUN_FILE}: zeroth_order.clients_per_round = {zeroth_order.clients_per_round}, and there is "
                f"data of {counted(len(self.parts), 'device')}: lower it, or make more data"
            )
        tiers = [Tier.HIGH] * training + [Tier.LOW] * (len(self.parts) - training)
        members = tuple(
            DemoClient(name=name, tier=tier, data=spec)
            for (name, spec), tier in zip(self.parts.items(), tiers, strict=True)
        )
        told = " + ".join(f"{tiers.count(tier)} {tier}" for tier in (Tier.HIGH, Tier.LOW) if tier in tiers)
        return DemoPlan(
            out=out,
            run=self.run,
            members=members,
            title=f"zowarmup demo of {self.run.name}: {self.run.model.name}, {told}",
            subject=f"project {self.run.name}",
            held_out="held-out examples",
            folder=self.folder,
        )


def open_project(folder: Path, say: Callable[[str], None]) -> Project:
    """Read a project, and make its data where there is none.

    Args:
        folder: Where it is.
        say: Gets a line about what takes a while.

    Raises:
        Usage: It is no project, or its run file cannot be used.
        CommandError: Its data cannot be made.
    """
    root = folder.absolute()
    if not (root / RUN_FILE).is_file():
        raise Usage(f"{folder} holds no {RUN_FILE}: `zowarmup new DIR` makes a project")
    sys.path.insert(0, str(root))  # for an algorithm or a task of its own
    try:
        with chdir(root):  # paths in a run file are from where the coordinator starts
            run = read_run_file(Path(RUN_FILE))
    except RunFileError as error:
        raise Usage(str(error).replace(RUN_FILE, str(folder / RUN_FILE), 1)) from error
    except OSError as error:
        raise Usage(f"{folder} cannot be entered: {error.strerror or error}") from error
    parts = _parts(root, run)
    if not parts:
        _make_data(root, say)
        parts = _parts(root, run)
    if not parts:
        raise CommandError(
            f"{folder}: there is no data beside that of evaluation.data = {run.evaluation.data!r}: put the devices' there, "
            f"named {CLIENT}1 and so on"
        )
    return Project(root, run, parts)


def _parts(root: Path, run: RunFile) -> dict[str, str]:
    """The specs of the devices' data, by name, in the order of their numbers. Empty where the held-out set or all of them are
    missing."""
    kind, _, rest = run.evaluation.data.partition(":")
    if kind not in KINDS:
        raise Usage(
            f"{root / RUN_FILE}: evaluation.data = {run.evaluation.data!r}: a project's is a file or a folder "
            f"({', '.join(f'{kind}:PATH' for kind in KINDS)}), with the devices' beside it, named {CLIENT}1 and so on"
        )
    place, *options = _OPTIONS.split(rest, maxsplit=1)
    held_out = root / Path(place).expanduser()
    if not held_out.exists():
        return {}
    suffixes = "".join(held_out.suffixes) if held_out.is_file() else ""
    found = [path for path in held_out.parent.glob(f"{CLIENT}*{suffixes}") if path.is_dir() is held_out.is_dir()]
    named = {path.name.removesuffix(suffixes): path for path in found}
    ordered = sorted(
        named, key=lambda name: [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
    )
    return {name: ",".join([f"{kind}:{named[name]}", *options]) for name in ordered}


def _make_data(root: Path, say: Callable[[str], None]) -> None:
    """Raises CommandError."""
    if not (root / MAKE_DATA).is_file():
        return
    say(f"making the data: python {MAKE_DATA}")
    done = subprocess.run(
        [sys.executable, MAKE_DATA], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).splitlines()[-LINES_SHOWN:]
        raise CommandError(f"{root / MAKE_DATA} ended with code {done.returncode}:\n{indented(last)}")
