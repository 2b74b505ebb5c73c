"""Rules that turn a device's readings into findings, each with its remedy. Pure.

`doctor` takes the readings and shows the findings. A device with a finding that fails will not take part, or not for
long; a warning is about what is near that, or costs speed. The bounds stand here, with their reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from zowarmup.client.net.contact import Contact, ContactFinding
from zowarmup.client.net.messages import UPGRADE_REMEDY, upgrade_due
from zowarmup.client.work.joining import Needs, decide_tier
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.memory import Memory
from zowarmup.common.text import amount

DAY_S = 86400.0
# Logs of several machines are read side by side; certificates are judged by the device's own clock.
CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 300.0
EXPIRY_WARN_S = 30 * DAY_S
# A zeroth-order round is one message each way, and then as long as the slowest of its quorum.
LATENCY_WARN_S = 1.0
# Of a round's deadline; training comes before the upload.
UPLOAD_WARN_SHARE = 0.5
FETCH_WARN_S = 600.0
# Single-board computers slow themselves down from 80 to 85 degrees on.
HOT_C, TOO_HOT_C = 75.0, 85.0
WEAR_LEAST_S = 3600.0
# A day: a card of 32 GB that bears each place to be written 500 times is then worn out in four years.
WEAR_WARN_BYTES = 10e9
# Free memory comes and goes with the other programs of a device.
MEMORY_WARN_FACTOR, DISK_WARN_FACTOR = 1.25, 2.0
# Beside replica and program: the log of commits, and the file system's own.
DISK_SLACK_BYTES = 16 << 20


class Verdict(StrEnum):
    """`skipped`: it could not be read here, which says nothing against the device."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check`: a word; `found`: what is, without a full stop; `remedy`: what to do about it, empty where nothing."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """Bytes a second, up and down; `timed_out`: it is slower than that."""

    up: float
    down: float
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Throttling:
    """Why the processor is or was slowed down since the device started: words for people. `power`: the supply is too
    weak at this moment."""

    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    power: bool = False


class MemoryController(StrEnum):
    """Whether the kernel limits memory. `refused`: it was asked to on its command line, and does not."""

    ON = "on"
    OFF = "off"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Written:
    """What a client has written to its disk in `seconds`; `flash`: the disk is an SD card."""

    bytes: int
    seconds: float
    flash: bool


def clock(ahead_s: float, give_or_take_s: float) -> Finding:
    """`ahead_s`: of the coordinator's clock, known to within `give_or_take_s`."""
    off = abs(ahead_s)
    found = f"{off:.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    if off <= CLOCK_WARN_S + give_or_take_s:
        return Finding("clock", Verdict.OK, f"within {max(off, give_or_take_s, 0.1):.1f} s of the coordinator's")
    if off > 2 * DAY_S:
        found = f"{off / DAY_S:.0f} days {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    remedy = "set it by the network: sudo timedatectl set-ntp true, and let UDP port 123 out"
    return Finding("clock", Verdict.FAIL if off > CLOCK_FAIL_S + give_or_take_s else Verdict.WARN, found, remedy)


def versions(ours: str, theirs: str) -> Finding:
    """`ours`, `theirs`: this device's software and the coordinator's, which speak the same protocol."""
    if theirs in (ours, ""):
        return Finding("version", Verdict.OK, ours + (", as the coordinator's" if theirs else ""))
    found = f"{ours} here, {theirs} on the coordinator; they speak the same protocol"
    remedy = (
        UPGRADE_REMEDY
        if upgrade_due(theirs, ours)
        else "upgrade the coordinator when it suits you: docs/operators-guide.md"
    )
    return Finding("version", Verdict.WARN, found, remedy)


def tls(contact: Contact, host: str, now_s: float) -> Finding:
    """Judge a handshake.

    Args:
        contact: What `look` found under TLS.
        host: What this device calls the coordinator by.
        now_s: Unix time by this device's clock.
    """
    if contact.found is not ContactFinding.COORDINATOR:
        found, _, remedy = contact.sentence.partition(": ")
        return Finding("tls", Verdict.FAIL, found, remedy)
    left_s = contact.expires_at_s - now_s
    if left_s < EXPIRY_WARN_S:
        found = f"the coordinator's certificate expires in {left_s / DAY_S:.0f} days"
        return Finding("tls", Verdict.WARN, found, "renew it on the coordinator: docs/security.md")
    return Finding("tls", Verdict.OK, f"trusted for {host}, for another {left_s / DAY_S:.0f} days")


def memory(
    here: Memory, needs: Needs, tier: Tier | None, has_torch: bool, running: bool = False, low_trains: bool = False
) -> Finding:
    """`tier`: the one that this device has or asks for, None where it takes what it can. `running`: a client takes part
    here now, so that what is free is what it has left. `low_trains`: the run's low tier needs torch, too."""
    decision = decide_tier(here, needs, has_torch)
    tier = tier or decision.tier
    needed = needs.high if tier is Tier.HIGH else needs.low
    has = f"{amount(here.bytes)} ({here.source})"
    if running:
        return Finding("memory", Verdict.OK, f"{has}, beside the client that takes part here now")
    if not needed:
        return Finding(
            "memory", Verdict.SKIPPED, f"{has}; the coordinator has not measured what a device needs (--model-cache)"
        )
    if here.bytes < needed:
        found = f"{has}; a round of the {tier or Tier.LOW} tier needs {amount(needed)}"
        remedy = "stop other programs or raise the limit, or run a smaller model or micro_batch"
        if tier is Tier.HIGH:
            remedy = "stop other programs or raise the limit, or enrol it in the low tier (a new --state-dir)"
        return Finding("memory", Verdict.FAIL, found, remedy)
    if not has_torch and (tier is Tier.HIGH or low_trains):
        remedy = "pip install 'zowarmup[torch]'" + ("" if low_trains else ", or --tier low")
        return Finding("memory", Verdict.FAIL, f"{has}, and no torch", remedy)
    found = f"{has}; a round of the {tier} tier needs {amount(needed)}"
    if here.bytes < MEMORY_WARN_FACTOR * needed:
        return Finding("memory", Verdict.WARN, found, "leave it more room: other programs grow, too")
    return Finding("memory", Verdict.OK, found)


def disk(free_bytes: int, model_bytes: int, once_bytes: int, where: str) -> Finding:
    """Room for a replica and for the next one while it is fetched, and for what is fetched once."""
    needed = 2 * model_bytes + once_bytes + DISK_SLACK_BYTES
    found = f"{amount(free_bytes)} free in {where}, {amount(needed)} needed"
    if free_bytes >= DISK_WARN_FACTOR * needed:
        return Finding("disk", Verdict.OK, found)
    verdict = Verdict.WARN if free_bytes >= needed else Verdict.FAIL
    return Finding("disk", verdict, found, "free some, or give --state-dir on another disk")


def latency(seconds: float) -> Finding:
    found = f"{1000 * seconds:.0f} ms there and back"
    if seconds <= LATENCY_WARN_S:
        return Finding("latency", Verdict.OK, found)
    return Finding("latency", Verdict.WARN, found, "every round takes at least so long: look for a better link")


def bandwidth(link: LinkSpeed, model_bytes: int, update_bytes: int, deadline_s: float) -> Finding:
    """`update_bytes`: what this device has to send within `deadline_s` in a round of training; 0 where it never does."""
    below = "below " if link.timed_out else ""
    found = f"{below}{amount(link.up)}/s up, {below}{amount(link.down)}/s down"
    upload_s, fetch_s = update_bytes / link.up, model_bytes / link.down
    if update_bytes:
        found += f": an update takes {upload_s:.0f} s"
        if upload_s > deadline_s:
            lower = ", or the low tier" if update_bytes == model_bytes else ""  # which sends a part, or nothing
            remedy = f"it cannot arrive within warmup.deadline_s = {deadline_s:g}: a better link{lower}"
            return Finding("bandwidth", Verdict.FAIL, found, remedy)
        if upload_s > UPLOAD_WARN_SHARE * deadline_s:
            remedy = (
                f"that leaves little of warmup.deadline_s = {deadline_s:g} for training: raise it, or a better link"
            )
            return Finding("bandwidth", Verdict.WARN, found, remedy)
    if fetch_s > FETCH_WARN_S:
        found += f": fetching the model takes {fetch_s / 60:.0f} minutes"
        return Finding("bandwidth", Verdict.WARN, found, "it joins late, and after an absence comes back late")
    return Finding("bandwidth", Verdict.OK, found)


def temperature(celsius: float | None) -> Finding:
    if celsius is None:
        return Finding("temperature", Verdict.SKIPPED, "this device does not say")
    found = f"{celsius:.0f} degrees"
    if celsius < HOT_C:
        return Finding("temperature", Verdict.OK, found)
    verdict = Verdict.WARN if celsius < TOO_HOT_C else Verdict.FAIL
    return Finding("temperature", verdict, found, "cool it: a heat sink, a fan, air; hot, it slows itself down")


def throttling(seen: Throttling | None) -> Finding:
    if seen is None:
        return Finding("throttling", Verdict.SKIPPED, "this device does not say")
    if not seen.now and not seen.before:
        return Finding("throttling", Verdict.OK, "none since it started")
    found = "; ".join(
        [f"now: {', '.join(seen.now)}"] * bool(seen.now) + [f"before: {', '.join(seen.before)}"] * bool(seen.before)
    )
    remedy = "cool it, and give it the power supply that its maker sells"
    return Finding("throttling", Verdict.FAIL if seen.power else Verdict.WARN, found, remedy)


def memory_limit(controller: MemoryController | None) -> Finding:
    """Whether the limit of the client's service holds."""
    if controller is None:
        return Finding("memory-limit", Verdict.SKIPPED, "this system does not say")
    if controller is MemoryController.ON:
        return Finding("memory-limit", Verdict.OK, "the kernel limits the memory of services")
    found = (
        "the kernel limits no service's memory (cgroup_disable=memory), so MemoryMax of zowarmup-client does not hold"
    )
    remedy = "append cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt, and reboot"
    if controller is MemoryController.REFUSED:
        remedy = "its command line asks for it, in vain: upgrade the kernel (sudo apt full-upgrade), and reboot"
    return Finding("memory-limit", Verdict.WARN, found, remedy)


def wifi(power_saving: Mapping[str, bool | None] | None) -> Finding:
    """`power_saving`: whether each Wi-Fi interface saves power, None where it is not known."""
    if power_saving is None:
        return Finding("wi-fi", Verdict.SKIPPED, "this system does not say")
    if saving := [name for name, saves in power_saving.items() if saves]:
        name = saving[0]
        found = f"{name} saves power: messages wait until it wakes, and some access points lose it"
        remedy = (
            f"sudo iw dev {name} set power_save off, and for good: sudo nmcli connection modify "
            f'"$(nmcli -g GENERAL.CONNECTION device show {name})" 802-11-wireless.powersave 2'
        )
        return Finding("wi-fi", Verdict.WARN, found, remedy)
    if not power_saving:
        return Finding("wi-fi", Verdict.OK, "none is in use")
    if unknown := [name for name, saves in power_saving.items() if saves is None]:
        return Finding("wi-fi", Verdict.SKIPPED, f"whether {unknown[0]} saves power, iw knows: sudo apt install iw")
    return Finding("wi-fi", Verdict.OK, f"{', '.join(power_saving)} does not save power")


def time_sync(synchronised: bool | None) -> Finding:
    if synchronised is None:
        return Finding("time-sync", Verdict.SKIPPED, "this system does not say")
    if synchronised:
        return Finding("time-sync", Verdict.OK, "the network sets this device's clock")
    remedy = "sudo timedatectl set-ntp true, and let UDP port 123 out; without a clock, certificates cannot be judged"
    return Finding("time-sync", Verdict.WARN, "nothing sets this device's clock", remedy)


def wear(written: Written | None) -> Finding:
    """What the client writes a day, which wears out an SD card."""
    if written is None:
        return Finding("wear", Verdict.SKIPPED, "is measured as the client's user, beside a client that takes part")
    where = "to an SD card" if written.flash else "to disk"
    found = f"{amount(written.bytes)} written {where} in {written.seconds / 3600:.1f} h"
    if written.seconds < WEAR_LEAST_S:  # what it fetched when it joined would count for all days
        return Finding("wear", Verdict.SKIPPED, f"{found}: ask again after an hour")
    a_day = written.bytes * DAY_S / written.seconds
    found += f": {amount(a_day)} a day"
    if not written.flash or a_day <= WEAR_WARN_BYTES:
        return Finding("wear", Verdict.OK, found)
    return Finding("wear", Verdict.WARN, found, "put --state-dir on another disk, such as a USB drive")


def passed(findings: Sequence[Finding]) -> bool:
    return all(finding.verdict is not Verdict.FAIL for finding in findings)
