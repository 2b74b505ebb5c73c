"""A command under the limits of a systemd unit, as far as they can be had without systemd: its system calls, address
families, executable memory and privileges, by the same means of the kernel that systemd uses.

    python -m tests.deployment.sandbox SYSTEMD-ANALYZE UNIT COMMAND...
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_GET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 66, 1
ALLOW, EPERM = 0x7FFF0000, 0x00050000 | 1
EQUAL = 4
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}


class Argument(ctypes.Structure):
    """libseccomp's scmp_arg_cmp."""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("left", ctypes.c_uint64),
        ("right", ctypes.c_uint64),
    )


def supported() -> bool:
    """Whether this kernel can refuse memory that is written and then executed (Linux 6.3)."""
    return bool(ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0)


def settings(unit: str) -> Iterator[tuple[str, str]]:
    """The unit's lines, each a name and a value."""
    for line in unit.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


def allowed_calls(unit: str, analyze: str) -> set[str]:
    """What SystemCallFilter= leaves, the groups' members as `analyze`, the path of systemd-analyze, names them."""
    told = subprocess.run([analyze, "syscall-filter"], capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    for line in told.splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())

    def calls(name: str) -> set[str]:
        return set().union(*(calls(member) for member in groups[name])) if name.startswith("@") else {name}

    found = calls("@default")
    for name, value in settings(unit):
        if name == "SystemCallFilter":
            listed = set().union(*(calls(word) for word in value.removeprefix("~").split()))
            found = found - listed if value.startswith("~") else found | listed
    return found


def confine(unit: str, analyze: str) -> None:
    """Put this process, and what it becomes, under the unit's limits. Raises OSError where the kernel refuses."""
    given = dict(settings(unit))
    libc = ctypes.CDLL(None, use_errno=True)
    if given.get("MemoryDenyWriteExecute") == "yes" and libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE needs Linux 6.3")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    fetched = sorted(Path(analyze).parent.glob("root/**/libseccomp.so.2"))
    seccomp = ctypes.CDLL(str(fetched[0]) if fetched else "libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_init.argtypes = (ctypes.c_uint32,)
    seccomp.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Argument),
    )
    seccomp.seccomp_load.argtypes = (ctypes.c_void_p,)
    filters = seccomp.seccomp_init(EPERM)
    for call in sorted(allowed_calls(unit, analyze) - {"socket"}):
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number >= 0 and seccomp.seccomp_rule_add_array(filters, ALLOW, number, 0, None):
            raise OSError(f"{call} cannot be allowed")
    for family in given["RestrictAddressFamilies"].split():
        equal = Argument(0, EQUAL, FAMILIES[family], 0)
        number = seccomp.seccomp_syscall_resolve_name(b"socket")
        if seccomp.seccomp_rule_add_array(filters, ALLOW, number, 1, ctypes.byref(equal)):
            raise OSError(f"sockets of {family} cannot be allowed")
    if seccomp.seccomp_load(filters):
        raise OSError("the kernel takes no filter for system calls")


if __name__ == "__main__":
    confine(Path(sys.argv[2]).read_text(encoding="utf-8"), sys.argv[1])
    os.execv(sys.argv[3], sys.argv[3:])
