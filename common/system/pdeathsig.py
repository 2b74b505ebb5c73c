"""A command that ends when the process that started it does, by the parent-death signal.

Started as `python -I -S pdeathsig.py PARENT COMMAND...` (`tethered` makes the line). On Linux it asks the kernel for SIGKILL
when the parent dies, a request that survives execv, and then becomes the command. This also holds when the parent is killed
in a way that it cannot catch. Elsewhere it just becomes the command. It imports next to nothing, since it stands before
every process of a demo.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def tethered(*command: str) -> list[str]:
    """The command line that starts a command as a child of this process and ends it with this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def end_with_parent(parent: int) -> None:
    """Be killed when the process `parent`, which started this one, ends. Ends this one where that has happened already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)


def main(arguments: list[str]) -> None:
    end_with_parent(int(arguments[0]))
    os.execv(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
