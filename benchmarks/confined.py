"""A run by one low-tier client that has little memory: a real coordinator, and a real client in a control group.

    python -m benchmarks.confined RUN.toml --data jsonl:texts.jsonl --megabytes 380

The group has no swap, and the kernel kills what needs more; cached files are taken back first. Prints the client's peak resident set, as it says
it itself, and the group's. Making a group takes root. The run file says `clients_per_round = 1` and few rounds.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.memory import memory_group
from zowarmup.lab.processes import free_port

COORDINATOR = [sys.executable, "-m", "zowarmup.server.main"]
CLIENT = [sys.executable, "-m", "zowarmup.client.main", "--tier", "low", "--name", "confined"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confined", description="A run in little memory.")
    parser.add_argument("run", type=Path, help="the run file")
    parser.add_argument("--data", required=True, help="the client's")
    parser.add_argument("--megabytes", type=float, required=True, help="that the client may take")
    parser.add_argument("--cache", type=Path, help="the coordinator's --model-cache: preparing a model takes minutes")
    given = parser.parse_args()
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder, memory_group(int(given.megabytes * 1e6)) as group:
        lead = [
            *COORDINATOR,
            str(given.run),
            "--data-dir",
            f"{folder}/run",
            "--address",
            address,
            "--exit-when-finished",
        ]
        lead += ["--model-cache", str(given.cache)] if given.cache else []
        join = [*CLIENT, "--server", address, "--data", given.data, "--state-dir", f"{folder}/state"]
        with subprocess.Popen(lead) as coordinator:
            said = subprocess.run(
                group.command([*join, "--connect-timeout", "3600"]), stderr=subprocess.PIPE, text=True, check=False
            )
            coordinator.terminate()
        sys.stderr.write(said.stderr)
        peak = re.findall(r"peak memory (\d+ MB)", said.stderr)
        print(
            f"exit code {said.returncode}, killed {group.killed} times, peak memory {peak[-1] if peak else 'unknown'}"
        )
    return said.returncode


if __name__ == "__main__":
    sys.exit(main())
