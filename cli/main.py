"""The `zowarmup` command: an operator's entry point.

The bare install, meant for low-tier devices, has neither typer nor rich, so nothing is imported before we know.
"""

import sys

from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.system.ending import COMMAND, Stopping, conclude

EXTRA = ("typer", "rich", "pydantic", "cryptography", "matplotlib", "safetensors", "onnx", "grpc_health")


def main() -> int:
    """Exit code: 0, 1 where something could not be done, 2 for a wrong command line, 128 + the number of a signal; conclude
    has the others."""
    if sys.argv[1:2] == ["doctor"]:  # the client's, which a bare install has, too
        from zowarmup.client.main import DOCTOR
        from zowarmup.client.main import main as client

        return client(["--doctor", *sys.argv[2:]], DOCTOR)
    Stopping(COMMAND)
    return conclude("zowarmup", sys.argv[1:], _run, {CommandError: CommandError.exit_code}, on_signal="stopped by {}")


def _run() -> int:
    try:
        from zowarmup.cli.commands import run

        return run()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise Usage(f"{error.name} is missing; install it with: pip install 'zowarmup[server]'") from error


if __name__ == "__main__":
    sys.exit(main())
