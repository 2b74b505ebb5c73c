"""Settings of the allocator and the interpreter for a process with thousands of streams.

Measured, not guessed (docs/performance.md): both are defaults made for programs that do neither.
"""

import contextlib
import gc
import resource

from zowarmup.common.system.memory import set_allocator

GARBAGE = 50_000
"""So many objects in containers are made before garbage is looked for."""
KEPT_BYTES = 32 << 20
FILES, MAC_FILES = 1 << 18, 10240
OWN_FILES = 512
"""Of them for the ledger, blobs, uploads and scrapes: not for connections."""


def tune_allocator() -> None:
    """Before any thread starts. A chunk is made by one thread and freed by another: left to itself, the C library gives its
    pages back to the system and asks for them anew each time, and keeps a pool for every thread. So it keeps what is
    freed, up to KEPT_BYTES, in two pools."""
    set_allocator(2, KEPT_BYTES, KEPT_BYTES)


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows it, up to FILES: a shell and a service manager give 1024 at
    first, and every connection is one. How many it may open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (FILES, MAC_FILES):
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            with contextlib.suppress(OSError, ValueError):  # beyond what the kernel takes
                resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
                return allowed
    return FILES if soft == resource.RLIM_INFINITY else soft


def connections(files: int) -> int:
    """How many connections may be open in a process that may open `files`: the rest are for the run's own files."""
    return max(files // 2, files - OWN_FILES)


def tune_collector() -> None:
    """Once everything is here. It stays, and a coordinator makes little garbage in cycles: with thousands of streams,
    looking for it as often as Python does by itself is a tenth of the work of a round."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 50, 50)
