"""A coordinator's address: HOST:PORT, or several; whether it is on this machine, and whether a proxy lies in between."""

import ipaddress
import re
from collections.abc import Mapping

DEFAULT_ADDRESS = "127.0.0.1:7070"
SERVER_VARIABLE = "ZOWARMUP_SERVER"
DATA_DIR_VARIABLE = "ZOWARMUP_DATA_DIR"
"""Environment variables that stand in for the options --server and --data-dir of every command that has them."""
PROXY_VARIABLE = "grpc_proxy"
EXEMPT_VARIABLES = ("no_grpc_proxy", "no_proxy")

MOST_ADDRESSES = 64

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_EXAMPLE = "such as 192.168.1.10:7070, coordinator.local:7070 or [fd00::1]:7070"


def host_and_port(address: str, listening: bool = False) -> tuple[str, int]:
    """HOST:PORT in its parts, an IPv6 address without its brackets. `listening`: port 0 stands for any that is free. Raises
    ValueError with what is wrong, such as "'pi' must be HOST:PORT, ...: the port is missing"."""
    if problem := _problem(address, listening):
        shown = "".join(c if c.isprintable() else "?" for c in address[:100])
        raise ValueError(f"'{shown}' must be HOST:PORT, {_EXAMPLE}: {problem}")
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def addresses_in(servers: str) -> tuple[str, ...]:
    """HOST:PORT, or several separated by commas, one by one. Raises ValueError as `host_and_port`, and where one is there
    twice."""
    if "," not in servers:
        host_and_port(servers)
        return (servers,)
    found = tuple(address.strip() for address in servers.split(","))
    for address in found:
        host_and_port(address)
        if found.count(address) > 1:
            raise ValueError(f"'{address}' is there twice: name each coordinator once")
    if len(found) > MOST_ADDRESSES:
        raise ValueError(f"{len(found)} addresses are more than {MOST_ADDRESSES}: give a name that has them all")
    return found


def _problem(address: str, listening: bool) -> str:
    if not address.strip():
        return "it is empty"
    if any(c.isspace() or not c.isprintable() for c in address):
        return "it holds a space or a control character"
    if "://" in address:
        return f"leave {address.partition('://')[0]}:// out"
    if "/" in address:
        return "leave the path out, from the / on"
    if "@" in address:
        return "leave the user out, up to the @"
    if not address.isascii():
        return "the host must be in ASCII; a name with other letters has a form that begins with xn--"
    if ":" not in address or address.endswith("]"):
        return "the port is missing"
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not (0 if listening else 1) <= int(port[:9]) <= 65535:
        return f"the port must be {0 if listening else 1} to 65535"
    if not host:
        return "the host is missing"
    if host.startswith("["):
        inside, _, zone = host[1:].removesuffix("]").partition("%")
        return (
            "" if host.endswith("]") and _is_ip(inside, 6) and ("%" not in host or zone) else "no IPv6 address is in []"
        )
    if ":" in host:
        one = _is_ip(host.partition("%")[0], 6)
        return "an IPv6 address must stand in []" if one else "one host and one port, with one colon between them"
    if re.fullmatch(r"[0-9.]+", host):
        return "" if _is_ip(host, 4) else "its host is no IPv4 address"
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split(".")):
        return "its host is no name of a machine"
    return ""


def is_ip(host: str) -> bool:
    """Whether a host, an IPv6 address without its brackets, is an IP address and no name."""
    return _is_ip(host.partition("%")[0], 4) or _is_ip(host.partition("%")[0], 6)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine's loopback: 127.0.0.0/8, ::1 or localhost. Names are not looked up."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(address: str, environment: Mapping[str, str]) -> str:
    """The proxy through which HOST:PORT is reached, as PROXY_VARIABLE says, or nothing. The variables that are meant for
    the web (http_proxy, https_proxy, all_proxy) are not followed: what fetches web pages for a company's machines seldom
    reaches a coordinator, and never one on this machine."""
    proxy = environment.get(PROXY_VARIABLE, "").strip()
    if not proxy or is_loopback(address):
        return ""
    host = host_and_port(address)[0].lower()
    for exempt in next((environment[name] for name in EXEMPT_VARIABLES if environment.get(name)), "").split(","):
        suffix = exempt.strip().lower().lstrip(".")
        if suffix and (suffix == "*" or host == suffix or host.endswith(f".{suffix}") or _within(host, suffix)):
            return ""
    return proxy


def _within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def network(ip: str) -> str:
    """Whose connections an IP address's count as: an IPv4 address its own, an IPv6 address those of its first 64 bits, as one
    host has all of the rest. Anything else stands for itself."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"
