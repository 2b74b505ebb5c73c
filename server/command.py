"""The `zowarmup-server` command, as it is installed.

The bare install, meant for low-tier devices, has the command and not what a coordinator stands on, so nothing of it is
imported before we know.
"""

import sys

from zowarmup.common.system.stopping import SERVICE, Stopped, Stopping

EXTRA = ("grpc_health", "grpc_reflection", "pydantic")


def main() -> int:
    """Exit code: that of `zowarmup.server.main`, 2 where the server's packages are missing."""
    stopping = Stopping(SERVICE)
    try:
        from zowarmup.server.main import main as serve

        return serve(stopping)
    except Stopped as stopped:
        return stopped.code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(
            f"zowarmup-server: {error.name} is missing; install it with: pip install 'zowarmup[server,torch]'",
            file=sys.stderr,
        )
        return 2
