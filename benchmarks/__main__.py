"""`python -m benchmarks`: measure, print a table, write results/latest.json and the table in docs/performance.md.

Each benchmark runs in a fresh process, one after the other. One that breaks or takes too long is a row that says so,
and the others go on. Exit code 1 where a goal does not hold.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.prepared import FOLDER
from benchmarks.rows import MODULES, QUICK_REPEATS, REGISTERED, REPEATS, Row, failed
from benchmarks.table import document, show

HERE = Path(__file__).parent
LONGEST_S = 600.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the system itself costs.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this benchmark (a pattern; may be repeated)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument(
        "--out", type=Path, help="the file to write (results/latest.json; for a part of them results/part.json)"
    )
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for module in MODULES:
        importlib.import_module(f"benchmarks.{module}")
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    if arguments.child:
        rows = REGISTERED[arguments.child](repeats)
        arguments.out.write_text(json.dumps([row.as_json() for row in rows]), encoding="utf-8")
        return 0
    names = [name for name in REGISTERED if any(fnmatch(name, pattern) for pattern in arguments.only or ["*"])]
    if arguments.list:
        print("\n".join(names))
        return 0
    if not names:
        parser.error(f"--only {' '.join(arguments.only)}: there are {', '.join(REGISTERED)}")
    whole = not (arguments.only or arguments.quick)
    out = arguments.out or HERE / "results" / ("latest.json" if whole else "part.json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then either
    described = machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        for name in names:
            print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
            start = time.monotonic()
            rows += in_child(name, arguments.quick)
            print(f"{time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    show(rows)
    out.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n", encoding="utf-8")
    if whole and not arguments.out:
        (out.parent / "machine.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        document(HERE.parent / "docs" / "performance.md", rows, described)
    return 0 if all(row.holds is not False for row in rows) else 1


def in_child(name: str, quick: bool) -> list[Row]:
    """One benchmark's rows, measured in a process group of its own, of which nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", "--child", name, "--out", str(out)]
        child = subprocess.Popen(
            command + ["--quick"] * quick,
            cwd=HERE.parent,
            env={**os.environ, **ONE_THREAD},
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = child.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            return [failed(name, f"not done after {LONGEST_S:g} s")]
        finally:
            if child.poll() is None or _group_lives(child.pid):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.returncode:
            print(said, file=sys.stderr)
            lines = said.strip().splitlines()
            return [failed(name, lines[-1] if lines else f"ended with code {child.returncode}")]
        return [Row(**row) for row in json.loads(out.read_text(encoding="utf-8"))]


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
