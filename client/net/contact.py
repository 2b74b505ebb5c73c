"""A plain socket's look at a coordinator's address, after a call has failed: grpc's errors do not say what is there.

A look resolves the name, connects, and says the first words of HTTP/2, under TLS where that is asked for; it sends nothing
that a coordinator would count as a call. What was heard is judged by `heard`; the sentences stand in one table.
"""

import errno
import os
import socket
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from zowarmup.client.net.tls import Trust, system_authorities
from zowarmup.common.settings.addresses import PROXY_VARIABLE, host_and_port, is_loopback, proxy_for
from zowarmup.common.text import blanked

LOOK_S = 5.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # the preface, and empty settings
_SETTINGS, _TLS_ALERT, _TLS_HANDSHAKE = 4, 21, 22


class ContactFinding(StrEnum):
    COORDINATOR = "something that speaks HTTP/2, as a coordinator does"
    UNKNOWN_NAME = "the name {host} is not known here ({detail}): check --server, or give an IP address"
    NO_NAME_SERVICE = (
        "the name {host} cannot be looked up at the moment ({detail}): check this device's network and DNS"
    )
    REFUSED = "nothing listens there ({detail}): check --server (name and port), and that the coordinator is running"
    NO_ROUTE = "there is no way to it from here ({detail}): check this device's network"
    NO_LOOPBACK = "there is no way to it from here ({detail}): the loopback interface is down (ip link set lo up)"
    TIMED_OUT = "it does not answer within {detail}: check --server, and that no firewall is in between"
    FAILED = "the connection fails ({detail})"
    PROXY = "the proxy {detail}; it is named by {variable}"
    SILENT = "something listens there and says nothing: a coordinator answers at once; check the port"
    HANGS_UP = "it hangs up at once; if that lasts, no coordinator listens there, or it asks for TLS or a certificate"
    HTTP = "a web server answers there ({detail}), no coordinator: check the port (its metrics have another)"
    OTHER = "another program answers there ({detail}), no coordinator: check the port"
    TLS = "it speaks TLS, and this side plain text: give the invitation or --ca of the coordinator, and leave --insecure out"
    PLAIN = "it speaks plain text where TLS was expected: check --server, or give --insecure if that is meant"
    NOT_YET_VALID = (
        "this device's clock says {detail}, which is before its certificate became valid: set the clock (sudo timedatectl "
        "set-ntp true, and let UDP port 123 out)"
    )
    EXPIRED = (
        "its certificate has expired by this device's clock ({detail}): if that is right, renew the certificate on the "
        "coordinator (docs/security.md)"
    )
    ANOTHER_NAME = (
        "its certificate is not one that this device trusts for that address ({detail}): call it by a name that its "
        "certificate has, or make one for {host} (zowarmup certs server --host)"
    )
    ANOTHER_AUTHORITY = (
        "its certificate is not one that this device trusts for that address ({detail}): give --ca or the invitation of this "
        "very coordinator; whoever answers there is signed by another authority"
    )
    CERTIFICATE_WANTED = (
        "it asks for a certificate of this side's: give --certificate and --key that its authority signed"
    )
    NO_HANDSHAKE = "the TLS handshake fails ({detail})"


@dataclass(frozen=True, slots=True)
class Contact:
    """`problem`: OpenSSL's words for what is wrong with a certificate; `expires_at_s`, unix seconds, where it is good."""

    found: ContactFinding
    sentence: str
    problem: str = ""
    expires_at_s: float = 0.0


class Unreachable(Exception):
    """A connection that could not be made: what `look` finds then."""

    def __init__(self, found: ContactFinding, detail: str = "", problem: str = "") -> None:
        super().__init__(found.name)
        self.found, self.detail, self.problem = found, detail, problem


def look(address: str, trust: Trust, timeout_s: float = LOOK_S, dialled: str = "") -> Contact:
    """What is at HOST:PORT, or at IP:PORT where one is `dialled` instead. It takes a few times `timeout_s` at most, beside the
    looking up of the name."""
    host = host_and_port(address)[0]
    target = dialled or address
    try:
        with connected(target, timeout_s) as plain:
            if trust.secure:
                return _shaken(plain, host, trust, target, timeout_s)
            found, detail = _greeted(plain)
        if found is ContactFinding.HANGS_UP and _takes_tls(target, timeout_s):
            found = ContactFinding.TLS
    except Unreachable as fault:
        return _contact(fault.found, host, fault.detail, fault.problem)
    return _contact(found, host, detail)


def connected(address: str, timeout_s: float = LOOK_S) -> socket.socket:
    """A connection to HOST:PORT, through a proxy where one is named. Raises Unreachable."""
    host, port = host_and_port(address)
    if proxy := proxy_for(address, os.environ):
        return _through(proxy, host, port, timeout_s)
    try:
        return socket.create_connection((host, port), timeout_s)
    except (OSError, UnicodeError) as error:
        raise Unreachable(*_unreachable(error, address, timeout_s)) from None


def heard(said: bytes) -> tuple[ContactFinding, str]:
    """What speaks like this when it is greeted in HTTP/2, and its first words for people."""
    if not said:
        return ContactFinding.HANGS_UP, ""
    first = blanked(said[:200].decode("ascii", "replace").splitlines()[0])[:60]
    if len(said) >= 9 and said[3] == _SETTINGS and said[:3] < b"\0\x40\0":
        return ContactFinding.COORDINATOR, ""
    if said[0] in (_TLS_ALERT, _TLS_HANDSHAKE) and said[1:2] == b"\x03":
        return ContactFinding.TLS, ""
    if said.startswith((b"HTTP/", b"<")):
        return ContactFinding.HTTP, first
    return ContactFinding.OTHER, first.strip() or f"{len(said)} bytes"


def _greeted(link: socket.socket, first_s: float = 0.0) -> tuple[ContactFinding, str]:
    """Say the first words and hear the first; but hear for `first_s` before anything is said. A coordinator speaks
    unasked, and what refuses is heard for certain only where nothing is under way to it: a connection that is closed with
    words unread is reset, and a reset overtakes the refusal."""
    try:
        if first_s:
            usual = link.gettimeout()
            link.settimeout(first_s)
            try:
                return heard(link.recv(4096))
            except TimeoutError:
                link.settimeout(usual)
        link.sendall(_GREETING)
        return heard(link.recv(4096))
    except TimeoutError:
        return ContactFinding.SILENT, ""
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in (reason := error.reason or str(error)) or "HANDSHAKE_FAILURE" in reason:
            return ContactFinding.CERTIFICATE_WANTED, ""
        return ContactFinding.NO_HANDSHAKE, reason
    except OSError:
        return ContactFinding.HANGS_UP, ""


def _takes_tls(address: str, timeout_s: float) -> bool:
    """Whether a handshake goes well, whoever it is with."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with connected(address, timeout_s) as plain, context.wrap_socket(plain):
            return True
    except OSError as error:  # ssl.SSLError is one
        return "ALERT" in (getattr(error, "reason", None) or "")


def _shaken(plain: socket.socket, host: str, trust: Trust, address: str, timeout_s: float) -> Contact:
    """A handshake of Python's own, with what grpc would be given."""
    pem = trust.authority or system_authorities() or b""
    context = ssl.create_default_context(cadata=pem.decode("ascii", errors="ignore") or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as grpc, which asks less
    context.set_alpn_protocols(["h2"])
    if trust.certificate and trust.key:
        context.load_cert_chain(trust.certificate, trust.key)
    try:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            peer = secure.getpeercert() or {}
            found, detail = _greeted(secure, timeout_s / 2)
            if (
                found is ContactFinding.HANGS_UP
            ):  # so a coordinator does, without a word, that this side's certificate does not suit
                found = ContactFinding.CERTIFICATE_WANTED
            expires = ssl.cert_time_to_seconds(str(peer["notAfter"])) if "notAfter" in peer else 0.0
            return _contact(found, host, detail, expires_at_s=expires)
    except ssl.SSLCertVerificationError as error:
        problem = error.verify_message
        raise Unreachable(_distrusted(problem), problem, problem) from None
    except TimeoutError:
        raise Unreachable(ContactFinding.SILENT) from None
    except OSError as error:  # ssl.SSLError is one
        problem = getattr(error, "reason", None) or error.strerror or str(error)
    # What else speaks there is asked in plain text.
    with connected(address, timeout_s) as again:
        found, detail = _greeted(again)
    if found is ContactFinding.COORDINATOR:
        raise Unreachable(ContactFinding.PLAIN, problem=problem)
    if found in (ContactFinding.TLS, ContactFinding.HANGS_UP):
        found, detail = (
            (ContactFinding.CERTIFICATE_WANTED, "") if "ALERT" in problem else (ContactFinding.NO_HANDSHAKE, problem)
        )
    raise Unreachable(found, detail, problem)


def _distrusted(problem: str) -> ContactFinding:
    if "not yet valid" in problem:
        return ContactFinding.NOT_YET_VALID
    if "expired" in problem:
        return ContactFinding.EXPIRED
    return ContactFinding.ANOTHER_NAME if "mismatch" in problem else ContactFinding.ANOTHER_AUTHORITY


def _unreachable(error: Exception, address: str, timeout_s: float) -> tuple[ContactFinding, str]:
    detail = str(getattr(error, "strerror", None) or error)
    if isinstance(error, socket.gaierror):
        return (
            ContactFinding.NO_NAME_SERVICE if error.errno == socket.EAI_AGAIN else ContactFinding.UNKNOWN_NAME,
            detail,
        )
    if isinstance(error, UnicodeError):
        return ContactFinding.UNKNOWN_NAME, "no valid name"
    if isinstance(error, TimeoutError):
        return ContactFinding.TIMED_OUT, f"{timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return ContactFinding.REFUSED, detail
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return ContactFinding.NO_LOOPBACK if is_loopback(address) else ContactFinding.NO_ROUTE, detail
    return ContactFinding.FAILED, detail


def _through(proxy: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """A tunnel through an HTTP proxy, as grpc makes it."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        link = socket.create_connection((found.hostname or "", found.port or 80), timeout_s)
        try:
            link.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = link.recv(4096).split(b"\r\n")[0].decode("ascii", "replace")
            if answer.split(" ")[1:2] == ["200"]:
                return link
        except BaseException:
            link.close()
            raise
        link.close()
        problem = f"answers {answer!r}"
    except (OSError, ValueError) as error:
        problem = f"fails ({getattr(error, 'strerror', None) or error})"
    raise Unreachable(ContactFinding.PROXY, f"{proxy.rpartition('@')[2]} {problem}")


def _contact(
    found: ContactFinding, host: str, detail: str = "", problem: str = "", expires_at_s: float = 0.0
) -> Contact:
    if found in (ContactFinding.NOT_YET_VALID, ContactFinding.EXPIRED):
        detail = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    sentence = found.value.format(host=host, detail=detail, variable=PROXY_VARIABLE)
    return Contact(found, sentence, problem, expires_at_s)
