"""When Python's collector of cyclic garbage need not look: while much is made that stays, and at the end of a process.

torch and its exporter are some million objects, through all of which every full collection goes.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For the time of imports, or of what makes objects that are all kept until it is over."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def kept_to_the_end() -> None:
    """What there is now is in no later collection, of which an interpreter that ends makes several: with torch they take a third
    of a second of CPU time."""
    gc.freeze()
