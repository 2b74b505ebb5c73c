"""How long a phase will go on, at the pace of its last rounds."""

from collections.abc import Sequence

from zowarmup.common.text import counted, duration

RECENT = 20
"""So many of the last rounds say how long one takes."""


def time_left(committed_at: Sequence[float], rounds: int, to: str = "") -> str:
    """A sentence such as "about 8 s: 40 rounds, of which the last took 0.2 s each"; empty where that is not known.

    Args:
        committed_at: When the phase's last rounds were committed, seconds, ascending.
        rounds: How many are left.
        to: What comes then, behind the time, such as " to the pivot".
    """
    recent = committed_at[-RECENT:]
    if len(recent) < 2 or rounds < 1:
        return ""
    each_s = (recent[-1] - recent[0]) / (len(recent) - 1)
    if each_s <= 0:
        return ""
    took = f"{each_s:.2g} s" if each_s < 10 else duration(each_s)
    return f"about {duration(rounds * each_s)}{to}: {counted(rounds, 'round')}, of which the last took {took} each"
