"""`make fuzz`: atheris on every decoder, the same number of inputs each, in a process of its own; then hostile calls, odd
command lines in odd surroundings, and hostile programs and runs for a device.

Coverage guides it through our code (common, client, server, data). The last line is JSON; a finding ends its process
with the input written to a file, whose name is in the output.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--calls", type=int, default=10_000, help="hostile calls, afterwards")
    parser.add_argument("--commands", type=int, default=10_000, help="odd command lines, after that")
    parser.add_argument("--programs", type=int, default=100_000, help="hostile programs and runs, at last")
    parser.add_argument("--seed", type=int, default=0, help="of the command lines")
    parser.add_argument("--target", help="this one only, in this process")
    arguments = parser.parse_args()
    if arguments.target:
        return _fuzz(arguments.target, arguments.runs)
    from tests.fuzz.hostile import HONEST, PROGRESS, assault
    from tests.fuzz.targets import TARGETS, TEMPORARY

    share, findings = -(-arguments.runs // len(TARGETS)), []
    for name in TARGETS if share else ():
        command = [sys.executable, "-m", "tests.fuzz.run", "--target", name, "--runs", str(share)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for left in TEMPORARY.glob(f"zowarmup-fuzz-files-{os.getpid()}-*"):  # libFuzzer leaves without saying goodbye
            shutil.rmtree(left, ignore_errors=True)
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done", "#"))][-1:]
        print(f"{name}: {last[0] if last else 'failed'}", flush=True)
        if done.returncode:
            findings.append(name)
            print(done.stdout + done.stderr, flush=True)
    found = asyncio.run(assault(arguments.calls, seed=0)) if arguments.calls else None
    if found:
        print(
            f"{found.calls} hostile calls: answers {found.answers}, refused {found.reasons}, {found.grown_mb:.0f} MB more, "
            f"{found.versions} versions meanwhile"
        )
        good = found.unchanged and found.serving and found.grown_mb < 64 and found.versions > found.calls // PROGRESS
        if not good or not found.contributed <= set(HONEST) or "UNKNOWN" in found.answers:
            findings.append("service")
    if arguments.commands:
        from tests.fuzz.commands import Finding, assail

        try:
            kinds, codes = assail(arguments.commands, arguments.seed)
            print(f"{codes.total()} command lines: exit codes {dict(codes)}, {dict(kinds)}", flush=True)
        except Finding:
            findings.append("commands")
            traceback.print_exc()
    if arguments.programs:
        from tests.fuzz.hostile_coordinators import besiege_device

        verdict = besiege_device(arguments.programs)
        print(verdict.in_words(), flush=True)
        findings += verdict.findings
    print(
        json.dumps(
            {
                "programs": arguments.programs,
                "commands": arguments.commands,
                "calls": arguments.calls,
                "targets": len(TARGETS),
                "messages": share * len(TARGETS),
                "findings": findings,
            }
        )
    )
    return 1 if findings else 0


def _fuzz(name: str, runs: int) -> int:
    import atheris

    with atheris.instrument_imports(include=["zowarmup", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"zowarmup-fuzz-corpus-{name}-"))
    for number, valid in enumerate(target.valid):
        (corpus / str(number)).write_bytes(valid)
    options = [f"-runs={runs}", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=20", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/finding-", str(corpus)], target.take)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
