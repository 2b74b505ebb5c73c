"""Run a command that must not outlive the process that started it.

Started as `python -I -S tether.py PARENT COMMAND...`. On Linux it asks the kernel for SIGKILL when the parent dies, a
request that survives execv, and then becomes the command. This also holds when the parent is killed in a way that it
cannot catch. Elsewhere it just becomes the command. It imports next to nothing, since it stands before every process
of a demo.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main(arguments: list[str]) -> None:
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
