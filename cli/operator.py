"""Operator commands: changes of a run or its fleet, and the certificates that protect both."""

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from zowarmup.cli.listings import NAMED, invitations_text, revoked_text
from zowarmup.cli.options import Reach, reaching
from zowarmup.common.messages.invitation import JOIN_VARIABLE, Invitation
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.addresses import addresses_in, is_loopback
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.text import listed

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Shown in status and the log.")]
FolderOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the authority is, or will be.")]
DaysOption = Annotated[int, typer.Option("--days", metavar="N", min=1, max=3650, help="How long it is good.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

certs = typer.Typer(help="Certificates for TLS, by an authority of your own.", no_args_is_help=True)


def health(reach: Reach) -> None:
    """Whether a coordinator serves, for probes. gRPC's health service says it; the exit code is 0 or 1."""
    if (said := reach.session.health()) != "SERVING":
        raise CommandError(f"the coordinator at {reach.session.address} does not serve: it says {said}")
    print("serving")


def pause(reach: Reach, reason: ReasonOption = "") -> None:
    """Open no further round until `zowarmup resume`. The round in progress ends as usual."""
    reach.session.pause(reason)
    print("paused: no further round opens until zowarmup resume")


def resume(reach: Reach) -> None:
    """Open rounds again."""
    reach.session.resume()
    print("resumed")


def pivot(reach: Reach, reason: ReasonOption = "") -> None:
    """End the warm-up after the round in progress."""
    reach.session.pivot(reason)
    print("the pivot follows the round in progress")


def stop(reach: Reach, reason: ReasonOption = "") -> None:
    """Finish the run after the round in progress. This cannot be undone."""
    reach.session.stop(reason)
    print("the run ends with the round in progress")


def revoke(
    reach: Reach,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Its name in the run.")],
    reason: ReasonOption = "",
    with_invitation: Annotated[
        bool, typer.Option("--with-invitation", help="Revoke what is left of the invitation that it came by, too.")
    ] = False,
) -> None:
    """Shut a client out for ever. Its stream and transfers end at once, and its credential is worth nothing."""
    invitation, open_enrolment = reach.session.revoke(client, reason, with_invitation)
    print(revoked_text(client, invitation, open_enrolment))


def invitations(
    reach: Reach,
    every: Annotated[bool, typer.Option("--all", help="Also those that nobody can use any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All, as JSON, for programs.")] = False,
) -> None:
    """The open invitations, and who came by them. Their secrets are not among what it says."""
    found = reach.session.invitations()
    if as_json:
        print(json.dumps([invitation.to_json() for invitation in found], indent=2, allow_nan=False))
    else:
        print(invitations_text(found, every))


def uninvite(
    reach: Reach,
    invitation: Annotated[str, typer.Argument(metavar="ID", help="As `zowarmup invitations` and `invite` say it.")],
    reason: ReasonOption = "",
) -> None:
    """Revoke an invitation. Nobody can join by it any more; who came by it stays a member (`zowarmup revoke`)."""
    revoked = reach.session.uninvite(invitation, reason)
    came = f"; {listed(revoked.clients, NAMED)} came by it and may stay" if revoked.clients else ""
    print(f"invitation {revoked.name} is revoked{came}")


def invite(
    reach: Reach,
    tier: Annotated[Tier, typer.Option(help="The tier that the device may take.")],
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long it is good: 30m, 12h, 7d.")] = "7d",
    uses: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="How many devices may use it.")] = 1,
    data: Annotated[str, typer.Option(metavar="SPEC", help="The device's data, to complete the command.")] = "SPEC",
) -> None:
    """Print the one line that a device joins with. Whoever sees that line can join: send it as you would a password."""
    if not re.fullmatch(r"[A-Za-z0-9_.,:;/=+@%~^*?-]+", data):
        raise Usage(f"--data {data!r}: holds what a shell would read otherwise")
    servers, expires_s = ",".join(addresses_in(reach.session.servers)), _seconds(expires)
    issued = reach.session.invite(tier, expires_s, uses)
    word = Invitation(issued.token, reach.authority).word
    line = f"{JOIN_VARIABLE}={word} zowarmup-client --server {servers} --tier {tier} --data {data}"
    local = all(map(is_loopback, addresses_in(servers)))
    if not reach.trust.secure and not local:
        line += " --insecure"
    print(line)
    until = datetime.fromtimestamp(issued.expires_at_s).astimezone()
    times = "once" if uses == 1 else f"{uses} times"
    notes = [f"Good {times} until {until:%Y-%m-%d %H:%M %Z}, for the {tier} tier. It is not shown again."]
    notes.append(f"`zowarmup uninvite {issued.invitation}` revokes it, `zowarmup invitations` lists what is open.")
    if data == "SPEC":
        notes.append("Replace SPEC by the device's data (zowarmup-client --help).")
    if local:
        notes.append("It works on this machine only: for others, give --server as they reach the coordinator.")
    if reach.mutual:
        notes.append("The device also needs --certificate and --key (zowarmup certs client).")
    print("\n".join(notes), file=sys.stderr)


@certs.command("init")
def init(
    out: FolderOption,
    host: Annotated[str, typer.Option(metavar="NAME[,NAME..]", help="What devices call the coordinator: names, IPs.")],
    days: DaysOption = 3650,
) -> None:
    """Make an authority and the coordinator's certificate. Nothing is overwritten. The authority is good for ten years."""
    from zowarmup.cli.certificates import init as make

    for file in make(out, [name.strip() for name in host.split(",")], days):
        print(file)
    print(
        f'In the run file\'s [server]: tls_certificate = "{out / "server.crt"}", tls_key = "{out / "server.key"}"',
        file=sys.stderr,
    )


@certs.command("server")
def server(
    out: FolderOption,
    host: Annotated[
        str, typer.Option(metavar="NAME[,NAME..]", help="As for init; those of the former certificate if left out.")
    ] = "",
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="What the files are called, where each coordinator has its own."),
    ] = "server",
    days: DaysOption = 3650,
) -> None:
    """Renew the coordinator's certificate and key under the same authority. They take the place of the former ones."""
    from zowarmup.cli.certificates import server as make

    _check_name(name, "ca")
    for file in make(out, [one.strip() for one in host.split(",")] if host else [], days, name):
        print(file)
    print(
        "Where the run file names these files, they are in use within seconds, without a restart; elsewhere copy both there.",
        file=sys.stderr,
    )


@certs.command("client")
def client(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the files are called.")],
    out: FolderOption,
    days: DaysOption = 3650,
) -> None:
    """Make a certificate for a device or an operator, for coordinators that ask for one (server.client_ca)."""
    from zowarmup.cli.certificates import client as make

    _check_name(name, "ca", "server")
    for file in make(out, name, days):
        print(file)


def _check_name(name: str, *taken: str) -> None:
    """Raises Usage."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) or name in taken:
        neither = f"neither {' nor '.join(taken)}" if len(taken) > 1 else f"not {taken[0]}"
        raise Usage(f"{name!r} must be 1 to 63 letters, digits, '.', '_' or '-', and {neither}")


def register(app: typer.Typer) -> None:
    """Add them all to the command."""
    for verb in (health, pause, resume, pivot, stop, invite, revoke, invitations, uninvite):
        app.command()(reaching(verb))
    app.add_typer(certs, name="certs")


def _seconds(text: str) -> float:
    """Raises Usage."""
    matched = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if not matched:
        raise Usage(f"--expires {text!r}: must be a number and s, m, h, d or w, such as 7d")
    return float(int(matched[1]) * _UNITS[matched[2]])
