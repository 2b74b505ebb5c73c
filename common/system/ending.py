"""The end of a process, by a signal or by itself: an exit code and, where something failed, one sentence on standard error.

The kernel gives process 1 of a container no default handling of signals, and a library's import, a thread's computing or a
dead disk can hold an orderly end up for long. So a process installs `Stopping` before it imports anything slow. The first
signal raises Stopped in the main thread, or, within `notifying`, calls a function instead, which ends an event loop in order. The
process has `GRACE_S` seconds from then on; after that, or at a second signal, it is ended by force. That is safe at any
moment: what lasts is written whole or not at all, and what is left half done is removed at the next start.

`conclude` runs the work of one command and is the only place where an exception becomes an exit code. Errors that the
caller expects say their own sentence. What the operating system refuses gets one by its error number. Anything else is a
fault of this package and says so. With --verbose the traceback comes first.
"""

import _thread
import errno
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from signal import Signals
from types import FrameType
from typing import NoReturn

from zowarmup.common.system.garbage import kept_to_the_end
from zowarmup.common.system.logs import VERBOSE, indented
from zowarmup.common.text import in_words, out_of_memory, printable_lines

DONE, FAILED, USAGE, GAVE_UP, FAULT = 0, 1, 2, 3, 70
"""Exit codes; 128 + the number of a signal are the others. docs/operators-guide.md lists them."""
PIPE_CLOSED = 141
"""As shells have it for SIGPIPE: whoever read standard output wants no more of it. Nothing is said then."""

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space, or name a folder on another disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "name a file or folder that this user can read and write"
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit on open files (ulimit -n)"),
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EIO: "the disk fails: see what the system's log says of it",
}


class OutputRefused(Exception):
    """Standard output takes no more; `error` is what the system says."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Output(io.TextIOWrapper):
    """Standard output. Its refusals are no OSError, which libraries would handle in ways of their own, and a character
    that its encoding lacks is written as an escape."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._refuse(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        # What is left in the buffer must not fail again when the interpreter ends.
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
        raise OutputRefused(error)


def conclude(
    program: str,
    arguments: Sequence[str],
    work: Callable[[], int],
    expected: Mapping[type[Exception], int],
    on_signal: str = "",
) -> int:
    """Do the work of a command and return the exit code of the process. `arguments`: its command line, for --verbose.
    `expected`: the errors that say one sentence, and the exit code of each; an `exit_code` of their own counts more.
    `on_signal`: the sentence where a signal ended the work, with the signal's name in place of {}; empty: none."""
    verbose = VERBOSE in arguments
    with _streams():
        try:
            code = _carried_out(work)
            kept_to_the_end()
            sys.stdout.flush()
            return code
        except OutputRefused as refused:
            if refused.error.errno == errno.EPIPE:
                return PIPE_CLOSED
            reason = refused.error.strerror or refused.error
            say(program, f"standard output cannot be written: {reason}; free space, or send it elsewhere")
            return FAILED
        except Stopped as stopped:
            if on_signal:
                say(program, on_signal.format(Signals(stopped.number).name))
            return stopped.code
        except Exception as error:  # noqa: BLE001 this is the process's last word
            if verbose:
                with suppress(OSError, ValueError):
                    print(indented("".join(traceback.format_exception(error)).rstrip()), file=sys.stderr)
            kind = next((kind for kind in expected if isinstance(error, kind)), None)
            if kind is not None:
                say(program, str(error))
                return int(getattr(error, "exit_code", expected[kind]))
            say(program, sentence(error))
            return FAILED if isinstance(error, OSError) or out_of_memory(error) else FAULT


def _carried_out(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as left:  # a parser of command lines, which has said why
        return left.code if isinstance(left.code, int) else DONE if left.code is None else FAILED


def sentence(error: Exception) -> str:
    """What to say of an error that nothing nearer has put into words."""
    if out_of_memory(error):
        return "out of memory: stop other programs, or raise the memory limit of this one"
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        reason = error.strerror or str(error) or type(error).__name__
        return f"{where}{reason}; {_REMEDIES.get(error.errno or 0, f'{VERBOSE} shows where it arose')}"
    return (
        f"unexpected {in_words(error)}: this is a fault of zowarmup and not yours; please report it with what {VERBOSE} "
        "shows"
    )


def say(program: str, text: str) -> None:
    """A sentence on standard error, in printable characters; where that cannot be written, nobody reads it."""
    with suppress(OSError, ValueError):
        print(printable_lines(f"{program}: {text}"), file=sys.stderr, flush=True)


@contextmanager
def _streams() -> Iterator[None]:
    """Standard streams that can be written, for the time of the work. One that was closed is the null device: its number
    must not become that of a file of ours, into which a library would then write its messages."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)  # open, though Python has no stream for it
                continue
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper) or isinstance(before, _Output):
        yield
        return
    with suppress(OSError):
        before.flush()
    output = _Output(
        before.buffer, before.encoding, "backslashreplace", line_buffering=before.line_buffering, write_through=False
    )
    sys.stdout = output
    try:
        yield
    finally:
        with suppress(OutputRefused, ValueError):
            output.flush()
        sys.stdout = before
        with suppress(OutputRefused, ValueError):
            output.detach()  # which leaves the buffer open for its first owner


GRACE_S = 1.5
SERVICE = {signal.SIGTERM: 0, signal.SIGINT: 130}
"""Exit codes of a service: stopping it is no failure."""
COMMAND = {number: 128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
"""Exit codes of a command, as shells expect them."""


class Stopped(BaseException):
    """A signal asks this process to end. `code`: its exit code."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code = number, code


class Stopping:
    """Hears the signals that are keys of `codes`, exit codes by signal. `number`: the first that came, 0 before."""

    def __init__(self, codes: Mapping[signal.Signals, int]) -> None:
        self._codes = codes
        self._notify: Callable[[], object] | None = None
        self.number = 0
        for number in codes:
            if not unheard(number):
                signal.signal(number, self._handle)

    @property
    def code(self) -> int:
        """The exit code that belongs to the signal. Only to be asked once there was one."""
        return self._codes[signal.Signals(self.number)]

    @contextmanager
    def notifying(self, notify: Callable[[], object]) -> Iterator[None]:
        """Within it a signal calls `notify`, in the main thread between any two instructions, and raises nothing. A signal
        that has come before calls it at once."""
        before, self._notify = self._notify, notify
        if self.number:
            notify()
        try:
            yield
        finally:
            self._notify = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(self.code)
        self.number = number
        force_after(GRACE_S, self.code)
        if self._notify is None:
            raise Stopped(number, self.code)
        self._notify()


def unheard(number: int) -> bool:
    """Whether a signal must stay ignored: a SIGHUP where nohup asks for that."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def force_after(seconds: float, code: int, wanted: Callable[[], bool] = lambda: True) -> None:
    """End this process with an exit code, unless it has ended by then or `wanted`, asked then, says no. May be called in a
    signal handler."""

    def force() -> None:
        time.sleep(seconds)
        if wanted():
            os._exit(code)

    # Not threading.Thread: the signal may have interrupted one that is being started, which holds the lock for that.
    _thread.start_new_thread(force, ())
