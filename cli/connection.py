"""Options by which an operator's commands reach the coordinator.

The operator's credential is read from a file or the environment and never from the command line, where `ps` would show
it. With --data-dir, on the coordinator's own machine, nothing else is needed.
"""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zowarmup.cli.failure import Usage
from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE, SERVER_VARIABLE

if TYPE_CHECKING:
    from zowarmup.cli.session import Session
    from zowarmup.client.net.tls import Trust

CREDENTIAL_VARIABLE = "ZOWARMUP_OPERATOR_CREDENTIAL"
CREDENTIAL_FILE = "operator.credential"
AUTHORITY_FILE = "ca.pem"
DEFAULT_ADDRESS = "127.0.0.1:7070"


def _file(name: str, help: str) -> Any:
    return Annotated[Path | None, typer.Option(name, metavar="FILE", help=help)]


OPTIONS: dict[str, tuple[Any, Any]] = {
    "server": (
        Annotated[str, typer.Option("--server", envvar=SERVER_VARIABLE, metavar="HOST:PORT", help="The coordinator.")],
        DEFAULT_ADDRESS,
    ),
    "data_dir": (
        Annotated[
            Path | None,
            typer.Option(
                "--data-dir",
                envvar=DATA_DIR_VARIABLE,
                metavar="DIR",
                help="Its data directory, with the operator's credential.",
            ),
        ],
        None,
    ),
    "credential_file": (_file("--credential-file", f"The operator's credential (or in {CREDENTIAL_VARIABLE})."), None),
    "ca": (_file("--ca", "PEM: who signs the coordinator's certificate, where that is private."), None),
    "certificate": (_file("--certificate", "PEM: your own, where the coordinator asks for one."), None),
    "key": (_file("--key", "PEM: the key of --certificate."), None),
    "insecure": (
        Annotated[bool, typer.Option("--insecure", help="Send everything, secrets too, in plain text.")],
        False,
    ),
}


@dataclass(frozen=True, slots=True)
class Reach:
    """An open session, and what a device needs to know to reach the same coordinator. `authority`: PEM, may be empty."""

    session: "Session"
    authority: bytes
    trust: "Trust"
    mutual: bool


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a Reach, as one that has OPTIONS instead and opens it."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in OPTIONS.items()
    ]

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in OPTIONS}
        reach = _reach(**options)
        with reach.session:
            command(reach, **arguments)

    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *shared]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _reach(
    server: str,
    data_dir: Path | None,
    credential_file: Path | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    insecure: bool,
) -> Reach:
    """Raises Usage."""
    from zowarmup.cli.session import Session  # loads grpc
    from zowarmup.client.net.tls import TrustError, read, read_authority, trust

    def credential_in(file: Path, option: str) -> str:
        return read(file, option).decode("ascii", errors="replace").strip()

    try:
        authority = b""
        if ca is not None:
            authority = read_authority(ca, "--ca")
        elif data_dir is not None and (data_dir / AUTHORITY_FILE).exists():
            authority = read_authority(data_dir / AUTHORITY_FILE, "--data-dir")
        trusted = trust(server, authority, certificate, key, insecure)
        credential = os.environ.get(CREDENTIAL_VARIABLE, "")
        if credential_file is not None:
            credential = credential_in(credential_file, "--credential-file")
        elif data_dir is not None:
            credential = credential_in(data_dir / CREDENTIAL_FILE, "--data-dir")
    except TrustError as error:
        raise Usage(str(error)) from None
    if not credential.isascii() or not credential.isprintable():
        raise Usage("the operator's credential holds characters that none has: copy the whole file, and nothing else")
    return Reach(Session(server, trust=trusted, credential=credential), authority, trusted, certificate is not None)
