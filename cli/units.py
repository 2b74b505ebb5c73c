"""Numbers with units, for people. Sizes are decimal: 1 kB is 1000 bytes."""


def size(count: float) -> str:
    """Bytes, in about three figures: 264 B, 36.4 kB, 1.21 MB."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
            return f"{count:.{digits}f} {unit}"
    raise AssertionError("unreachable")


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


def counted(number: int, noun: str) -> str:
    """1 client, 9 clients."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
