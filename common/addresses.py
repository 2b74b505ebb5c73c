"""Where a coordinator is: HOST:PORT, and whether that never leaves this machine."""

import ipaddress

SERVER_VARIABLE = "ZOWARMUP_SERVER"
DATA_DIR_VARIABLE = "ZOWARMUP_DATA_DIR"
"""Environment variables that stand in for the options --server and --data-dir of every command that has them."""


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine's loopback: 127.0.0.0/8, ::1 or localhost. Names are not looked up."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
