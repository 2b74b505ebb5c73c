"""The `zowarmup` command: an operator's way in.

The bare install, meant for low-tier devices, has neither typer nor rich, so nothing is imported before we know.
"""

import sys
from signal import Signals

from zowarmup.common.system.stopping import COMMAND, Stopped, Stopping

EXTRA = ("typer", "rich", "pydantic", "cryptography", "matplotlib", "safetensors", "onnx", "grpc_health")


def main() -> int:
    """Exit code: 0, 1 where something could not be done, 2 for a wrong command line, 128 + the number of a signal."""
    if sys.argv[1:2] == ["doctor"]:  # the client's, which a bare install has, too
        from zowarmup.client.main import main as client

        return client(["--doctor", *sys.argv[2:]])
    Stopping(COMMAND)
    try:
        from zowarmup.cli.commands import run

        return run()
    except Stopped as stopped:
        print(f"zowarmup: stopped by {Signals(stopped.number).name}", file=sys.stderr)
        return stopped.code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(f"zowarmup: {error.name} is missing; install it with: pip install 'zowarmup[server]'", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
