"""How much memory there is, from trees of files such as kernels show them."""

from pathlib import Path

from zowarmup.common.system.memory import Memory, memory_here, peak_resident, peak_resident_of

MB = 1_000_000


def tree(root: Path, **files: str) -> Path:
    """A tree of files under `root`; in a key __ stands for /, and _dot_ for a dot."""
    for key, text in files.items():
        path = root / key.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = (
    "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\nHugePages_Total:   0\n"
)


def test_without_control_groups_the_available_memory_counts(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__meminfo=MEMINFO)
    assert memory_here(root) == Memory(3000000 * 1024, "available memory")


def test_an_old_kernel_has_only_a_total(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__meminfo="MemTotal: 4000000 kB\n")
    assert memory_here(root) == Memory(4000000 * 1024, "physical memory")


def test_without_proc_the_physical_memory_counts(tmp_path: Path) -> None:
    found = memory_here(tmp_path)
    assert found.source == "physical memory"
    assert found.bytes > 100 * MB


def test_version_2_the_tightest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/user.slice/client.service\n",
        sys__fs__cgroup__memory_dot_stat="",
        sys__fs__cgroup__user_dot_slice__memory_dot_max="209715200\n",
        sys__fs__cgroup__user_dot_slice__client_dot_service__memory_dot_max="max\n",
    )
    assert memory_here(root) == Memory(200 << 20, "limit of control group /user.slice")


def test_version_2_in_a_container_the_limit_is_at_the_mounts_root(tmp_path: Path) -> None:
    for path in ("/", "/docker/0123456789", "/../../other"):
        root = tree(
            tmp_path,
            proc__meminfo=MEMINFO,
            proc__self__cgroup=f"0::{path}\n",
            sys__fs__cgroup__memory_dot_max="104857600\n",
        )
        assert memory_here(root) == Memory(100 << 20, "limit of control group /")


def test_version_2_on_a_hybrid_host(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:memory:/a\n0::/b\n",
        sys__fs__cgroup__memory__a__memory_dot_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__unified__b__memory_dot_max="150000000\n",
    )
    assert memory_here(root) == Memory(150000000, "limit of control group /b")


def test_version_1_and_its_way_of_saying_no_limit(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="9:name=systemd:/x\n4:cpu,memory:/a/b\n3:cpuset:/\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__memory__a__memory_dot_limit_in_bytes="536870912\n",
        sys__fs__cgroup__memory__a__b__memory_dot_limit_in_bytes="9223372036854771712\n",
    )
    assert memory_here(root) == Memory(512 << 20, "limit of control group /a")


def test_a_limit_above_what_is_there_does_not_count(tmp_path: Path) -> None:
    root = tree(
        tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n", sys__fs__cgroup__memory_dot_max="99999999999\n"
    )
    assert memory_here(root).source == "available memory"


def test_this_machine_says_something_sensible() -> None:
    assert memory_here().bytes > 50 * MB


def test_what_a_process_has_held_at_most() -> None:
    assert 5 * MB < peak_resident() < 1 << 40
    assert peak_resident_of("none") == 0
