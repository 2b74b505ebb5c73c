"""The `zowarmup-server` command, as it is installed.

The bare install, meant for low-tier devices, has the command and not what a coordinator stands on, so nothing of it is
imported before we know.
"""

import sys

from zowarmup.common.system.ending import SERVICE, USAGE, Stopping, conclude

EXTRA = ("grpc_health", "grpc_reflection", "pydantic")


class MissingExtra(Exception):
    """A package that only a coordinator needs."""


def main() -> int:
    """Exit code: that of `zowarmup.server.main`, 2 where the server's packages are missing."""
    stopping = Stopping(SERVICE)

    def serve() -> int:
        try:
            from zowarmup.server.main import main as lead
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in EXTRA:
                raise
            raise MissingExtra(
                f"{error.name} is missing; install it with: pip install 'zowarmup[server,torch]'"
            ) from error
        return lead(stopping)

    return conclude("zowarmup-server", sys.argv[1:], serve, {MissingExtra: USAGE})
