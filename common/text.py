"""Text for people: an exception as one line, foreign text made safe to show, numbers with units.

Foreign code is what belongs neither to this package nor to the libraries that it calls: a user's model, and what that uses.
"""

import traceback
from collections.abc import Iterable

LONGEST_ERROR = 200  # characters, as in an abstention
LONGEST_FILE = 80
_PACKAGE = __file__.rpartition("/common/")[0]
_OURS = tuple(f"{_PACKAGE}/{room}/" for room in ("common", "data", "client", "server", "cli", "lab"))
_STANDARD = traceback.__file__.rpartition("/")[0] + "/"
_INSTALLED = "/site-packages/"
# They raise on behalf of whoever calls them.
_LIBRARIES = ("torch", "torchgen", "functorch", "numpy", "onnx", "onnxscript", "onnxruntime", "google", "grpc")


def in_words(error: BaseException, longest: int = LONGEST_ERROR, words: bool = True) -> str:
    """One line of printable characters, at most `longest` of them, such as "KeyError: 'loss' (my_models.py, line 12)"; without the error's
    own `words`, "KeyError (my_models.py, line 12)"."""
    kind = type(error).__name__
    said = next((line.strip() for line in _text(error).splitlines() if line.strip()), "") if words else ""
    if out_of_memory(error):
        kind = f"out of memory ({kind})"
    place = f" ({found})" if (found := where(error)) else ""
    text = blanked(f"{kind}: {said}" if said else kind)
    return text[: longest - len(place)] + place


def where(error: BaseException) -> str:
    """The file and line of the innermost foreign code that the exception came through: "FILE, line N", or nothing."""
    if isinstance(error, SyntaxError) and error.filename and is_foreign(error.filename):
        return f"{error.filename[-LONGEST_FILE:]}, line {error.lineno}"
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_foreign(file := frame.f_code.co_filename):
            found = f"{file[-LONGEST_FILE:]}, line {line}"
    return found


def is_own(error: BaseException) -> bool:
    """Whether this package's own code raised it, and no library's that it called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename.startswith(_OURS)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was refused: Python's own, torch's on any device, or ONNX Runtime's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = _text(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory", "failed to allocate")
    )


def _text(error: BaseException) -> str:
    """What it says of itself; nothing where its own code for that fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001
        return ""


def is_foreign(file: str) -> bool:
    """Whether a source file belongs neither to this package nor to the libraries that it calls."""
    if not file or file.startswith("<") or file.startswith(_OURS):
        return False
    if _INSTALLED in file:
        return not file.rpartition(_INSTALLED)[2].startswith(tuple(f"{name}/" for name in _LIBRARIES))
    return not file.startswith(_STANDARD)


LONGEST_LINE = 4000


def printable(text: str, longest: int = LONGEST_LINE) -> str:
    """One line for a terminal or a log.

    Args:
        text: anything.
        longest: how many characters of it are shown.

    Returns:
        The text with every character that is not printable (control characters, line breaks, escapes, marks that turn
        the direction of writing, halves of surrogate pairs) in Python's notation, such as \\x1b or \\n.
    """
    shown, more = text[:longest], len(text) - longest
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return f"{shown}... ({more} more characters)" if more > 0 else shown


def blanked(text: str) -> str:
    """Text with a space in the place of every character that is not printable."""
    return "".join(c if c.isprintable() else " " for c in text)


def printable_lines(text: str, longest: int = LONGEST_LINE) -> str:
    """The same with its line breaks kept, for what we have laid out ourselves."""
    return "\n".join(printable(line, longest) for line in text.split("\n"))


def amount(count: float) -> str:
    """Bytes in decimal units, in about three figures: 264 B, 36.4 kB, 1.21 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.3g} {unit}"


def percent(share: float) -> str:
    """A share from 0 to 1: 95.8 %."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds: 8 s, 1 min 05 s, 2 h 03 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a sentence: "cat, dog, wolf"; the first `most` of them, and how many more there are."""
    every = list(names)
    rest = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def counted(number: int, noun: str) -> str:
    """1 client, 9 clients."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
