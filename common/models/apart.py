"""A model's own code in a child process: its result is returned in a file, so that the code may print anything.

The child calls `carry_out`, which leaves the result, or a sentence, in a file. Every `STUCK_S` seconds it writes beside
it where its code is, so that whoever waits can say what it waits for; what ends the process at once leaves its trace on
standard error.
"""

import faulthandler
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from zowarmup.common.system.ending import force_after
from zowarmup.common.system.files import read_given, replacing
from zowarmup.common.system.garbage import kept_to_the_end
from zowarmup.common.text import in_words, is_foreign, where

STUCK_S = 10.0
LINGER_S = 2.0
"""How long a child has for its orderly end once the outcome is there: threads and exit handlers of the model's own code
may take for ever."""
_LINE = re.compile(r'^ *File "(.+)", line (\d+) in', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """What a child process leaves.

    Args:
        result: JSON values.
        failure: A sentence, empty where it went well.
    """

    result: Any = None
    failure: str = ""


def carry_out(file: Path, name: str, job: Callable[[], object], stuck_s: float = STUCK_S) -> int:
    """In the child: do the job of a model and leave its `ChildOutcome` in a file.

    What is raised that is no ValueError is the model's own code or a library's, and named as such.

    Args:
        file: Where to leave the outcome.
        name: The model's, for the sentence of a failure.
        job: Gives JSON values.
        stuck_s: How often the place where its code is is written down, seconds.

    Returns:
        The exit code: 0, or 1 where the job has failed.
    """
    faulthandler.enable()
    done = threading.Event()
    threading.Thread(target=_watch, args=(threading.get_ident(), _stack(file), done, stuck_s), daemon=True).start()
    try:
        said = ChildOutcome(job())
    except BaseException as error:  # noqa: BLE001
        ours = isinstance(error, ValueError) and not where(error)
        said = ChildOutcome(failure=str(error) if ours else f"model {name} raised {in_words(error)}")
    finally:
        done.set()
    with replacing(file) as partial:
        partial.write_text(json.dumps({"result": said.result, "failure": said.failure}), encoding="utf-8")
    sys.stdout.flush()
    return 1 if said.failure else 0


def end(code: int) -> NoReturn:
    """Leave the child with an exit code, within LINGER_S whatever the model's code has left behind."""
    force_after(LINGER_S, code)
    kept_to_the_end()
    sys.exit(code)


def _watch(thread: int, file: Path, done: threading.Event, every_s: float) -> None:
    """Note where a thread is, innermost first, as faulthandler does. Its `dump_traceback_later` looks at frames that are
    running without holding the interpreter's lock, and now and then that ends the process."""
    while not done.wait(every_s):
        frame, lines = sys._current_frames().get(thread), list[str]()
        while frame is not None:
            lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n')
            frame = frame.f_back
        with replacing(file) as partial:
            partial.write_text("".join(lines), encoding="utf-8", errors="replace")


def outcome_in(file: Path) -> ChildOutcome | None:
    """What a child left, None where it ended without leaving anything."""
    try:
        return ChildOutcome(**json.loads(read_given(file)))
    except (OSError, ValueError, TypeError):
        return None


def is_at(file: Path) -> str:
    """Where the code of a child that has taken long was when it last looked: "FILE, line N", or nothing."""
    try:
        return innermost(read_given(_stack(file)).decode(errors="replace"))
    except OSError:
        return ""


def innermost(trace: str) -> str:
    """The first line of foreign code in a trace of faulthandler's, innermost first: "FILE, line N", or nothing."""
    return next((f"{file}, line {line}" for file, line in _LINE.findall(trace) if is_foreign(file)), "")


def _stack(file: Path) -> Path:
    return file.with_name(file.name + ".stack")
