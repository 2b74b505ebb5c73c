"""Text of foreign origin made safe to show: line breaks, cursor movements and colours are escaped."""

LONGEST = 4000


def printable(text: str, longest: int = LONGEST) -> str:
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


def printable_lines(text: str, longest: int = LONGEST) -> str:
    """The same with its line breaks kept, for what we have laid out ourselves."""
    return "\n".join(printable(line, longest) for line in text.split("\n"))
