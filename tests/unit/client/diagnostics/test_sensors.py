"""What a Pi's system leaves undone, read from its files and judged: memory limits, Wi-Fi that sleeps, the clock, flash wear."""

import fcntl
import os
import re
from pathlib import Path

import pytest

from zowarmup.client.diagnostics import checks, sensors
from zowarmup.client.diagnostics.checks import MemoryController, Verdict, Written

OK, WARN, SKIPPED = Verdict.OK, Verdict.WARN, Verdict.SKIPPED
PI = "coherent_pool=1M cgroup_disable=memory snd_bcm2835.enable_hdmi=1 console=tty1 root=PARTUUID=0-2 rootwait"


ROOT = Path(__file__).parents[4]


def test_the_guide_has_every_check_of_the_doctor() -> None:
    code = (ROOT / "client/diagnostics/checks.py").read_text() + (ROOT / "client/diagnostics/doctor.py").read_text()
    checks = {*re.findall(r"Finding\(\s*\"([a-z-]+)\"", code), *re.findall(r"_failing\(\"([a-z]+)\"\)", code)}
    guide = (ROOT / "docs/operators-guide.md").read_text()
    assert len(checks) >= 18 and [check for check in sorted(checks) if f"\n| {check} |" not in guide] == []


def put(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    (root / name).chmod(mode)


@pytest.mark.parametrize(
    ("controllers", "cmdline", "found"),
    [
        ("cpuset cpu io memory pids\n", f"{PI} cgroup_enable=memory", MemoryController.ON),
        ("cpuset cpu io pids\n", PI, MemoryController.OFF),
        ("cpuset cpu io pids\n", f"cgroup_enable=memory {PI}", MemoryController.OFF),
        ("cpuset cpu io pids\n", f"{PI} cgroup_memory=1 cgroup_enable=memory", MemoryController.REFUSED),
        ("", PI, None),
    ],
)
def test_the_memory_controller(tmp_path: Path, controllers: str, cmdline: str, found: MemoryController | None) -> None:
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", controllers)
    put(tmp_path, "proc/cmdline", cmdline)
    assert sensors.memory_controller(tmp_path) is found


def test_the_memory_controller_of_version_1(tmp_path: Path) -> None:
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert sensors.memory_controller(tmp_path) is MemoryController.ON


@pytest.mark.parametrize(
    ("controller", "verdict", "said"),
    [
        (MemoryController.ON, OK, ""),
        (MemoryController.OFF, WARN, "append cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt"),
        (MemoryController.REFUSED, WARN, "upgrade the kernel"),
        (None, SKIPPED, ""),
    ],
)
def test_memory_limit(controller: MemoryController | None, verdict: Verdict, said: str) -> None:
    found = checks.memory_limit(controller)
    assert found.verdict is verdict and said in found.remedy


def radio(root: Path, name: str, state: str) -> None:
    put(root, f"sys/class/net/{name}/operstate", state)
    put(root, f"sys/class/net/{name}/phy80211/name", "phy0")


def test_power_saving_is_asked_of_the_wifi_that_is_in_use(tmp_path: Path) -> None:
    assert sensors.power_saving(tmp_path) is None
    radio(tmp_path, "wlan0", "up\n")
    radio(tmp_path, "wlan1", "down\n")
    put(tmp_path, "sys/class/net/eth0/operstate", "up\n")
    assert sensors.power_saving(tmp_path) == {"wlan0": None}
    script = '#!/bin/sh\ntest "$*" = "dev wlan0 get power_save" && echo "Power save: {}"\n'
    for answer, saves in (("on", True), ("off", False)):
        put(tmp_path, "usr/sbin/iw", script.format(answer), 0o755)
        assert sensors.power_saving(tmp_path) == {"wlan0": saves}
    put(tmp_path, "usr/sbin/iw", "#!/bin/sh\necho 'command failed: Operation not supported (-95)' >&2; exit 1\n", 0o755)
    assert sensors.power_saving(tmp_path) == {"wlan0": None}


@pytest.mark.parametrize(
    ("saves", "verdict", "said"),
    [
        (None, SKIPPED, "does not say"),
        ({}, OK, "none is in use"),
        ({"wlan0": False}, OK, "wlan0 does not save power"),
        ({"wlan0": None}, SKIPPED, "apt install iw"),
        ({"wlan0": None, "wlan1": True}, WARN, "sudo iw dev wlan1 set power_save off"),
    ],
)
def test_wifi(saves: dict[str, bool | None] | None, verdict: Verdict, said: str) -> None:
    found = checks.wifi(saves)
    assert found.verdict is verdict and said in f"{found.found} {found.remedy}"


def test_who_sets_the_clock(tmp_path: Path) -> None:
    assert sensors.synchronised(tmp_path) is None
    put(tmp_path, "run/systemd/timesync/synchronized", "")
    assert sensors.synchronised(tmp_path) is True
    assert sensors.synchronised() in (True, False, None), "the kernel is asked without harm"
    assert [checks.time_sync(told).verdict for told in (True, False, None)] == [OK, WARN, SKIPPED]


def test_what_a_client_has_written_is_read_of_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        assert sensors.written(tmp_path, lock) is None, "nobody holds it"
        fcntl.flock(held, fcntl.LOCK_EX)
        before = sensors.written(tmp_path, lock)
        assert before is not None, "this process does"
        with (tmp_path / "data").open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        after = sensors.written(tmp_path, lock)
    assert after is not None and after.bytes - before.bytes >= 1 << 20
    assert 0 < before.seconds <= after.seconds < 1e6


def test_an_sd_card_is_known_by_its_device(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    link = tmp_path / f"root/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    for target, flash in (("devices/soc/mmc0/block/mmcblk0/mmcblk0p2", True), ("devices/usb1/block/sda/sda1", False)):
        (tmp_path / "root/sys" / target).mkdir(parents=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../{target}")
        assert sensors._flash(tmp_path, tmp_path / "root") is flash


@pytest.mark.parametrize(
    ("written", "verdict", "said"),
    [
        (None, SKIPPED, "beside a client that takes part"),
        (Written(10**8, 1800.0, True), SKIPPED, "100 MB written to an SD card in 0.5 h: ask again after an hour"),
        (Written(4 * 10**8, 4 * 3600.0, True), OK, "in 4.0 h: 2.4 GB a day"),
        (Written(2 * 10**9, 4 * 3600.0, True), WARN, ": 12 GB a day"),
        (Written(2 * 10**9, 4 * 3600.0, False), OK, "written to disk in 4.0 h: 12 GB a day"),
    ],
)
def test_wear(written: Written | None, verdict: Verdict, said: str) -> None:
    found = checks.wear(written)
    assert found.verdict is verdict and said in found.found
