"""Hostile programs and runs by the thousand for a device, in processes of their own, with a watch on what they open.

The canaries' folders are watched by inotify: the runtime cannot open one, nor list where they are, without a word here.
"""

import ctypes
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.device import GIVEN_UP, MOST_MB, TOOK

_IN_ACCESS, _IN_OPEN = 0x1, 0x20
_EVENT = struct.Struct("iIII")
SECRET = bytes(range(100, 132))


@dataclass
class Verdict:
    """`outcomes`: how often each; `findings`: a sentence for each; `grown_mb`: the most that a process took beside what it
    had before; `longest_s`: of one."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    grown_mb: float = 0.0
    longest_s: float = 0.0

    def in_words(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        return (
            f"{self.outcomes.total()} hostile programs and runs: {counts}; {self.grown_mb:.0f} MB more at most, "
            f"{self.longest_s:.1f} s for one at most"
        )


@contextmanager
def watched(*folders: Path) -> Iterator[list[str]]:
    """What is opened or read in these folders meanwhile is in the list afterwards. Linux."""
    libc, opened = ctypes.CDLL(None, use_errno=True), list[str]()
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert handle >= 0, os.strerror(ctypes.get_errno())
    for folder in folders:
        assert libc.inotify_add_watch(handle, os.fsencode(folder), _IN_ACCESS | _IN_OPEN) >= 0
    try:
        yield opened
        try:
            data = os.read(handle, 1 << 20)
        except BlockingIOError:
            return
        while data:
            _, mask, _, length = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
            opened.append(f"{name or 'the folder'} was {'opened' if mask & _IN_OPEN else 'read'}")
            data = data[_EVENT.size + length :]
    finally:
        os.close(handle)


def prepare(folder: Path, seeds: Sequence[tuple[str, bytes, str]]) -> None:
    """Write seeds (a name, a program, its layout as JSON) and canaries to a folder."""
    for name in ("seeds", "canaries", "here"):
        (folder / name).mkdir()
    for name in ("canaries", "here"):
        (folder / name / "secret").write_bytes(SECRET)
    for name, program, layout in seeds:
        (folder / "seeds" / f"{name}.onnx").write_bytes(program)
        (folder / "seeds" / f"{name}.json").write_text(layout)


def besiege(folder: Path, first: int, count: int, at_once: int = 2000) -> Verdict:
    """Let devices take the hostile programs and runs from number `first` on. `folder`: as `prepare` leaves it."""
    verdict, end = Verdict(), first + count
    with watched(folder / "here", folder / "canaries") as opened:
        while first < end:
            first = _process(folder, first, min(at_once, end - first), verdict)
    verdict.findings += [f"a canary: {what}" for what in opened]
    return verdict


def _process(folder: Path, first: int, count: int, verdict: Verdict) -> int:
    """One process; the number to go on with after it."""
    command = [sys.executable, "-m", "tests.fuzz.device", str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    at = int((folder / "at").read_text() or first)
    for line in done.stdout.splitlines():
        said = json.loads(line)
        if "finding" in said and (count == 1 or TOOK not in said["finding"] or _again(folder, said["number"])):
            verdict.findings.append(f"number {said['number']}: {said['finding']}")
        if "outcomes" in said:
            verdict.outcomes.update(said["outcomes"])
            if said["grown_mb"] > MOST_MB and (count == 1 or _again(folder, at)):
                verdict.findings.append(f"number {at} or one before: it took {said['grown_mb']:.0f} MB")
            verdict.grown_mb = max(verdict.grown_mb, said["grown_mb"])
            verdict.longest_s = max(verdict.longest_s, said["longest_s"][0])
    if done.returncode in (0, 1) and '"outcomes"' in done.stdout:
        return at + 1
    if done.returncode != GIVEN_UP:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        verdict.findings.append(f"number {at}: the process ended by {how}: {done.stderr[-1500:]}")
    return at + 1


def _again(folder: Path, number: int) -> bool:
    """Whether it takes as much in a process of its own, as a client's is: with a full allocator, the limit holds for the
    first program alone."""
    alone = Verdict()
    _process(folder, number, 1, alone)
    return bool(alone.findings)


def exported(few: bool) -> list[tuple[str, bytes, str]]:
    """Seeds by the exporter: the built-in models or, where there is time, every kind of layer as well."""
    import torch

    from tests.unit.common.models.test_operators import BUILT_IN, CASES, CLASSES
    from zowarmup.common.models.construction import build
    from zowarmup.common.models.description import describe
    from zowarmup.common.models.export import export_program

    made = []
    for model, shape in BUILT_IN[:2] if few else BUILT_IN:
        module = build(model, shape, CLASSES, 0)
        layout = describe(module, shape)
        made.append((f"{model.name} {model.norm}", export_program(module, layout, shape), layout.to_json()))
    for name in ("attention",) if few else CASES:
        shape, make = CASES[name]
        module = make().eval()
        with torch.no_grad():
            module(torch.rand(2, *shape))
        layout = describe(module, shape)
        made.append((name, export_program(module, layout, shape), layout.to_json()))
    return made


def besiege_device(count: int, first: int = 0, few: bool = False) -> Verdict:
    """The whole of it, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="zowarmup-fuzz-device-"))
    try:
        prepare(folder, exported(few))
        return besiege(folder, first, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
