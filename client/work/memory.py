"""Memory returned to the system that a library needed only while it was loaded.

Code and constants that are used once, at import, stay resident until the kernel is short of memory. Unmapped, their
pages are the page cache's alone, and the few still in use come back from there when they are touched. A low-tier client
on digits peaks at 67 MB instead of 89, and then holds 57. And what a fetched snapshot has left free in the C library's
heap, up to 20 MB by chance, goes back as well.
"""

import contextlib
import ctypes
import re

from zowarmup.common.exact.replica import Replica
from zowarmup.common.models.program import Halt, Program, limit_memory

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +/")


def release_code() -> None:
    """Unmap the resident pages of files that are mapped read-only. Linux; elsewhere it does nothing."""
    try:
        with open("/proc/self/smaps") as smaps:
            text = smaps.read()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
        mapping = _MAPPING.match(entry)
        # Anonymous pages in such a mapping were written by the dynamic linker before it was made read-only: they are
        # nowhere else, and must stay.
        if mapping and re.search(r"^Anonymous: +0 kB$", entry, re.MULTILINE):
            start, stop = int(mapping[1], 16), int(mapping[2], 16)
            madvise(start, stop - start, _MADV_DONTNEED)


def release_heap() -> None:
    """Return the free pages of the heap. With the GNU C library; with another it does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def load_program(onnx: bytes, replica: Replica, threads: int, most_bytes: int = 0, halt: Halt | None = None) -> Program:
    """The run's program over the replica's weights; its passes take at most `most_bytes` of memory beside them (0: no
    limit). `halt` ends them, and the loading. Raises ValueError where ONNX Runtime cannot run it."""
    release_heap()
    release_code()  # before ONNX Runtime is loaded, and after
    if most_bytes:
        limit_memory(most_bytes)
    program = Program(onnx, replica.layout, replica.weights, threads, halt)
    release_code()
    return program
