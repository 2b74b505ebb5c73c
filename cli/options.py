"""Options that commands share: how the coordinator is reached, and --verbose.

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

from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE, DEFAULT_ADDRESS, SERVER_VARIABLE
from zowarmup.common.system.command import Usage
from zowarmup.common.system.logs import VERBOSE

if TYPE_CHECKING:
    from zowarmup.cli.session.session import Session
    from zowarmup.client.net.tls import Trust

CREDENTIAL_VARIABLE = "ZOWARMUP_OPERATOR_CREDENTIAL"
CREDENTIAL_FILE = "operator.credential"
AUTHORITY_FILE = "ca.pem"


def _file(name: str, help: str) -> Any:
    return typer.Option(name, metavar="FILE", help=help)


ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar=SERVER_VARIABLE,
        metavar="HOST:PORT",
        help="The coordinator; of several of a run's, separated by commas, the first that answers.",
    ),
]
DataDirOption = typer.Option(
    "--data-dir", envvar=DATA_DIR_VARIABLE, metavar="DIR", help="The coordinator's data directory."
)
AuthorityOption = Annotated[
    Path | None, _file("--ca", "PEM: who signs the coordinator's certificate, where that is private.")
]
CertificateOption = Annotated[Path | None, _file("--certificate", "PEM: your own, where the coordinator asks for one.")]
KeyOption = Annotated[Path | None, _file("--key", "PEM: the key of --certificate.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Send everything, secrets too, in plain text.")]
OPTIONS: dict[str, tuple[Any, Any]] = {
    "server": (ServerOption, DEFAULT_ADDRESS),
    "data_dir": (Annotated[Path | None, DataDirOption], None),
    "credential_file": (
        Annotated[Path | None, _file("--credential-file", f"The operator's credential (or in {CREDENTIAL_VARIABLE}).")],
        None,
    ),
    "ca": (AuthorityOption, None),
    "certificate": (CertificateOption, None),
    "key": (KeyOption, None),
    "insecure": (InsecureOption, False),
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
    from zowarmup.cli.session.session import Session  # loads grpc
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


_Option = Annotated[bool, typer.Option(VERBOSE, help="Where it fails, show the traceback.")]


def add_verbose(app: typer.Typer) -> None:
    """Add --verbose to all commands registered so far that have none of their own."""
    for info in app.registered_commands:
        if info.callback is not None and "verbose" not in inspect.signature(info.callback).parameters:
            info.callback = _with_option(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_verbose(group.typer_instance)


def _with_option(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def without(verbose: bool = False, **arguments: Any) -> Any:
        return command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    own = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Option)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    without.__signature__ = signature.replace(parameters=[*parameters, own])  # type: ignore[attr-defined]
    without.__annotations__ = {parameter.name: parameter.annotation for parameter in (*parameters, own)}
    return without
