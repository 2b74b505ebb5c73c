"""What readings of a device mean, each bound from both sides; and the files of a Pi and a Jetson, read."""

import subprocess
import sys
from pathlib import Path

import pytest

from zowarmup.client.diagnostics import checks, sensors
from zowarmup.client.diagnostics.checks import (
    DAY_S,
    DISK_SLACK_BYTES,
    Finding,
    LinkSpeed,
    Throttling,
    Verdict,
)
from zowarmup.client.net.contact import Contact, ContactFinding
from zowarmup.client.net.messages import upgrade_due
from zowarmup.client.work.joining import Needs
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.memory import Memory

OK, WARN, FAIL, SKIPPED = Verdict.OK, Verdict.WARN, Verdict.FAIL, Verdict.SKIPPED
MB = 1_000_000


@pytest.mark.parametrize(
    ("ahead_s", "give_or_take_s", "verdict", "said"),
    [
        (0.0, 0.01, OK, "within 0.1 s"),
        (-2.0, 0.0, OK, "within 2.0 s"),
        (2.5, 0.0, WARN, "2.5 s ahead of"),
        (2.5, 0.6, OK, "within 2.5 s"),
        (-300.0, 0.0, WARN, "300.0 s behind"),
        (-301.0, 0.0, FAIL, "301.0 s behind"),
        (-7000 * DAY_S, 0.0, FAIL, "7000 days behind"),
    ],
)
def test_clock(ahead_s: float, give_or_take_s: float, verdict: Verdict, said: str) -> None:
    found = checks.clock(ahead_s, give_or_take_s)
    assert (found.verdict, said in found.found) == (verdict, True)
    assert ("timedatectl" in found.remedy) == (verdict is not OK)


@pytest.mark.parametrize(
    ("theirs", "verdict", "said"),
    [
        ("zowarmup 1.0", OK, ""),
        ("", OK, ""),
        ("zowarmup 1.1", WARN, "install the newer wheel here"),
        ("zowarmup 0.9", WARN, "upgrade the coordinator"),
        ("another 1.1", WARN, "upgrade the coordinator"),
    ],
)
def test_versions(theirs: str, verdict: Verdict, said: str) -> None:
    found = checks.versions("zowarmup 1.0", theirs)
    assert found.verdict is verdict and found.remedy.startswith(said)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("zowarmup 0.9", "zowarmup 0.10", True),
        ("zowarmup 0.9", "zowarmup 0.9.1", True),
        ("zowarmup 0.9.1", "zowarmup 0.9", False),
        ("zowarmup 0.9", "zowarmup 1.0rc1", True),
        ("zowarmup 0.9", "zowarmup", False),
        ("zowarmup 0.9", "another 1.0", False),
        ("", "zowarmup 1.0", False),
    ],
)
def test_an_upgrade_is_due_where_the_coordinators_version_is_later(ours: str, theirs: str, expected: bool) -> None:
    assert upgrade_due(theirs, ours) is expected


@pytest.mark.parametrize(
    ("contact", "verdict", "said"),
    [
        (
            Contact(ContactFinding.COORDINATOR, "", expires_at_s=131 * DAY_S),
            OK,
            "trusted for pi.local, for another 31 days",
        ),
        (Contact(ContactFinding.COORDINATOR, "", expires_at_s=129 * DAY_S), WARN, "expires in 29 days"),
        (Contact(ContactFinding.EXPIRED, "its certificate has expired: renew it"), FAIL, "has expired -> renew it"),
        (Contact(ContactFinding.NO_HANDSHAKE, "the TLS handshake fails (why)"), FAIL, "the TLS handshake fails (why)"),
    ],
)
def test_tls(contact: Contact, verdict: Verdict, said: str) -> None:
    found = checks.tls(contact, "pi.local", 100 * DAY_S)
    assert found.verdict is verdict
    assert said in f"{found.found} -> {found.remedy}"


@pytest.mark.parametrize(
    ("has", "tier", "torch", "verdict", "said"),
    [
        (500, None, True, OK, "the high tier needs 400 MB"),
        (500, None, False, OK, "the low tier needs 100 MB"),
        (399, None, True, OK, "the low tier needs 100 MB"),
        (124, None, True, WARN, "the low tier needs 100 MB"),
        (125, Tier.LOW, True, OK, "the low tier needs 100 MB"),
        (99, None, True, FAIL, "the low tier needs 100 MB"),
        (99, Tier.LOW, False, FAIL, "run a smaller model"),
        (499, Tier.HIGH, True, WARN, "the high tier needs 400 MB"),
        (399, Tier.HIGH, True, FAIL, "enrol it in the low tier"),
        (500, Tier.HIGH, False, FAIL, "no torch"),
    ],
)
def test_memory(has: int, tier: Tier | None, torch: bool, verdict: Verdict, said: str) -> None:
    found = checks.memory(Memory(has * MB, "available"), Needs(400 * MB, 100 * MB), tier, torch)
    assert found.verdict is verdict
    assert said in f"{found.found} -> {found.remedy}"


def test_a_low_tier_that_trains_needs_torch() -> None:
    for torch, verdict, remedy in ((True, OK, ""), (False, FAIL, "pip install 'zowarmup[torch]'")):
        for tier in (None, Tier.LOW):
            found = checks.memory(
                Memory(300 * MB, "available"), Needs(400 * MB, 100 * MB), tier, torch, low_trains=True
            )
            assert (found.verdict, found.remedy) == (verdict, remedy)
    found = checks.bandwidth(LinkSpeed(0.1e6, 1e6), 45 * MB, 22 * MB, 120.0)
    assert found.found.endswith("an update takes 220 s") and found.remedy.endswith("a better link")


def test_a_client_that_runs_has_its_memory_already() -> None:
    found = checks.memory(Memory(50 * MB, "available"), Needs(400 * MB, 100 * MB), Tier.LOW, False, running=True)
    assert (found.verdict, found.found) == (OK, "50 MB (available), beside the client that takes part here now")


def test_disk() -> None:
    needed = 2 * 45 * MB + 1 * MB + DISK_SLACK_BYTES
    seen = [checks.disk(free, 45 * MB, MB, "/x").verdict for free in (2 * needed, 2 * needed - 1, needed, needed - 1)]
    assert seen == [OK, WARN, WARN, FAIL]


def test_latency() -> None:
    assert [checks.latency(s).verdict for s in (1.0, 1.1)] == [OK, WARN]
    assert checks.latency(0.0123).found == "12 ms there and back"


@pytest.mark.parametrize(
    ("link", "uploads", "verdict", "said"),
    [
        (LinkSpeed(1e6, 1e6), True, OK, "an update takes 45 s"),
        (LinkSpeed(0.7e6, 1e6), True, WARN, "leaves little of warmup.deadline_s = 120"),
        (LinkSpeed(0.3e6, 1e6), True, FAIL, "cannot arrive within warmup.deadline_s = 120"),
        (LinkSpeed(0.3e6, 1e6), False, OK, "300 kB/s up, 1 MB/s down"),
        (LinkSpeed(1e6, 0.07e6), False, WARN, "fetching the model takes 11 minutes"),
        (LinkSpeed(1e3, 1e3, timed_out=True), False, WARN, "below 1 kB/s up"),
    ],
)
def test_bandwidth(link: LinkSpeed, uploads: bool, verdict: Verdict, said: str) -> None:
    found = checks.bandwidth(link, 45 * MB, uploads * 45 * MB, 120.0)
    assert found.verdict is verdict
    assert said in f"{found.found} -> {found.remedy}"


def test_temperature() -> None:
    seen = [checks.temperature(c).verdict for c in (None, 74.9, 75.0, 84.9, 85.0)]
    assert seen == [SKIPPED, OK, WARN, WARN, FAIL]


@pytest.mark.parametrize(
    ("flags", "verdict", "found"),
    [
        (0x0, OK, "none since it started"),
        (0x50000, WARN, "before: under-voltage, throttled"),
        (0x80008, WARN, "now: soft temperature limit; before: soft temperature limit"),
        (0x50005, FAIL, "now: under-voltage, throttled; before: under-voltage, throttled"),
    ],
)
def test_the_flags_of_a_pi(flags: int, verdict: Verdict, found: str) -> None:
    judged = checks.throttling(sensors.pi_flags(flags))
    assert (judged.verdict, judged.found) == (verdict, found)


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_pis_files_are_read(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    assert sensors.temperature(tmp_path) == 48.312
    assert sensors.throttling(tmp_path) == sensors.pi_flags(0x50005)


def test_vcgencmd_is_asked_where_the_kernel_does_not_say(tmp_path: Path) -> None:
    put(tmp_path, "usr/bin/vcgencmd", "#!/bin/sh\necho throttled=0x20002\n")
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    assert sensors.throttling(tmp_path) == Throttling(("frequency capped",), ("frequency capped",))
    put(tmp_path, "usr/bin/vcgencmd", "#!/bin/sh\necho 'VCHI initialization failed'; exit 255\n")
    assert sensors.throttling(tmp_path) is None


def test_a_jetsons_files_are_read(tmp_path: Path) -> None:
    for zone, (kind, temp) in enumerate({"CPU-therm": "51500", "PMIC-Die": "100000", "GPU-therm": "-256000"}.items()):
        put(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", temp)
        put(tmp_path, f"sys/class/thermal/thermal_zone{zone}/type", kind)
    for number, count in ((1, "0"), (2, "3")):
        put(tmp_path, f"sys/class/hwmon/hwmon4/oc{number}_event_cnt", count)
    assert sensors.temperature(tmp_path) == 51.5
    assert sensors.throttling(tmp_path) == Throttling(before=("over-current 3 times",))


def test_a_device_that_says_nothing(tmp_path: Path) -> None:
    assert (sensors.temperature(tmp_path), sensors.throttling(tmp_path)) == (None, None)
    assert checks.throttling(None).verdict is SKIPPED


def test_room_is_looked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    assert sensors.free_bytes(tmp_path / "not" / "yet") > 0
    assert sensors.writable(tmp_path / "not" / "yet")
    (tmp_path / "file").touch()
    assert not sensors.writable(tmp_path / "file" / "yet")


def test_only_what_fails_fails() -> None:
    findings = [Finding("x", verdict, "") for verdict in (OK, WARN, SKIPPED)]
    assert checks.passed(findings)
    assert not checks.passed([*findings, Finding("x", FAIL, "")])


@pytest.mark.parametrize("missing", ["typer", "pydantic", "torch"])
def test_zowarmup_doctor_needs_no_operators_packages(missing: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from zowarmup.cli.main import main; sys.exit(main())"
    arguments = ["doctor", "--server", "127.0.0.1:1", "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1].startswith(
        "fail     connection   127.0.0.1:1: nothing listens there (Connection refused)"
    )
    assert not (tmp_path / "state").exists()


def test_the_usage_of_zowarmup_doctor_is_its_own() -> None:
    code = "import sys; from zowarmup.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "doctor", "--data", "digits:1/2"],
        capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("usage: zowarmup doctor [-h] --server HOST:PORT")
    assert "required: --server" in done.stderr


def test_what_a_device_needs_may_not_have_been_measured() -> None:
    found = checks.memory(Memory(50 * MB, "available"), Needs(0, 0), Tier.LOW, False)
    assert found.verdict is SKIPPED and "has not measured what a device needs (--model-cache)" in found.found
