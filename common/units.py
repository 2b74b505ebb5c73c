"""Amounts of bytes as the log shows them."""


def amount(count: float) -> str:
    """Bytes in decimal units, in about three figures: 264 B, 36.4 kB, 1.21 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
