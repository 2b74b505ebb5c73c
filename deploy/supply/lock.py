"""Writes requirements/*.txt: constraints.txt for one purpose each, with the hashes that the package index gives.

    .venv/bin/python -m deploy.supply.lock

Which packages a purpose takes follows from what is installed in this environment. Hashes are those of wheels for CPython
3.11 to 3.13 on Linux (x86-64 and aarch64, glibc) and macOS, and of the source where a Linux has no wheel. torch is left out:
which build of it is right (CPU, CUDA, a Jetson's) depends on the machine and comes from another index with other hashes, so
it is installed in a step of its own, with its version alone. What torch needs is in the files.

TOOLS have environments of their own, and name their versions themselves: they are given the hashes of these.
"""

import json
import re
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

REPOSITORY = Path(__file__).parent.parent.parent
INDEX = "https://pypi.org/simple"
PURPOSES: dict[str, tuple[str, ...]] = {
    "build": ("hatchling", "grpcio-tools"),
    "client": ("zowarmup[images]",),
    "server": ("zowarmup[images,postgres,server,torch]",),
    "test": ("zowarmup[torch,server,dev]", "pip"),
}
LISTED = ("client",)
"""Where the names of the files stand, too, so that a test can say for which machines there is one."""
TOOLS = ("docs/requirements.txt",)
"""Files of NAME==VERSION, a line each, with or without hashes; comments stay."""
LEFT_OUT = {"torch", "zowarmup", "pip"}
# A build of torch for GPUs takes them, and that for processors none: which one is here depends on where it came from.
_FOR_GPUS = re.compile(r"nvidia-|cuda-|triton$")
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64", "aarch64")
_PYTHON = re.compile(r"py3(1[123])?|py2\.py3|cp31[123]")
_PLATFORM = re.compile(r"any|manylinux.*_(x86_64|aarch64)|macosx_.*")


def closure(roots: Iterable[str]) -> set[str]:
    """The names of all packages that some requirements take on any of PYTHONS and PLATFORMS, as installed here, but
    for those that only a torch for GPUs takes."""
    found: set[str] = set()
    left = [Requirement(root) for root in roots]
    seen = set()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if _FOR_GPUS.match(name):
            continue
        key = (name, frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here: run `make test` first") from None
        left += [needed for needed in map(Requirement, lines) if _holds(needed, wanted.extras)]
    return found


def _holds(needed: Requirement, extras: set[str]) -> bool:
    if needed.marker is None:
        return True
    marker = needed.marker
    return any(
        marker.evaluate({"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine, "extra": extra})
        for python in PYTHONS
        for machine in PLATFORMS
        for extra in (extras or {""})
    )  # fmt: skip


def pinned(text: str) -> dict[str, str]:
    """Version by canonical name, of the lines of constraints.txt."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def hashes(page: Mapping[str, Any], version: str) -> dict[str, str]:
    """sha256 by file name, of a version's wheels that may be installed. `page`: a project's page of the simple API."""
    found = {}
    for file in page["files"]:
        try:
            _, of, _, tags = parse_wheel_filename(file["filename"])
        except ValueError:  # a source archive
            continue
        fits = any(
            _PYTHON.fullmatch(tag.interpreter) or (tag.abi == "abi3" and re.fullmatch(r"cp3([2-9]|1[01])", tag.interpreter))
            for tag in tags
            if _PLATFORM.fullmatch(tag.platform) and not tag.abi.endswith("t")
        )  # fmt: skip
        if str(of) == version and fits:
            found[file["filename"]] = file["hashes"]["sha256"]
    return found


def sources(page: Mapping[str, Any], version: str) -> dict[str, str]:
    """sha256 by file name, of a version's source archives."""
    found = {}
    for file in page["files"]:
        try:
            _, of = parse_sdist_filename(file["filename"])
        except ValueError:
            continue
        if str(of) == version:
            found[file["filename"]] = file["hashes"]["sha256"]
    return found


def lacking(files: Iterable[str]) -> list[str]:
    """The Pythons and platforms of Linux for which none of some wheels is."""
    missing = []
    for python in (python.replace(".", "") for python in PYTHONS):
        for machine in PLATFORMS:
            tags = [tag for file in files for tag in parse_wheel_filename(file)[3]]
            if not any(
                (tag.platform == "any" or (tag.platform.startswith("manylinux") and tag.platform.endswith(machine)))
                and (tag.interpreter in ("py3", f"py{python}", f"cp{python}") or tag.abi == "abi3")
                for tag in tags
            ):
                missing.append(f"{python} {machine}")
    return missing


def lines_of(name: str, version: str, files: Mapping[str, str]) -> str:
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{one}" for one in sorted(set(files.values())))])


def _page(name: str) -> Any:
    request = urllib.request.Request(
        f"{INDEX}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json", "User-Agent": "zowarmup-lock"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def main() -> int:
    versions = pinned((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    wanted = {purpose: closure(roots) - LEFT_OUT for purpose, roots in PURPOSES.items()}
    known, wheels = {}, {}
    for name in sorted(set().union(*wanted.values())):
        if name not in versions:
            raise SystemExit(f"constraints.txt does not name {name}")
        files = _files(name, versions[name])
        known[name], wheels[name] = lines_of(name, versions[name], files), sorted(files)
    for purpose, names in wanted.items():
        head = f"# Written by `python -m deploy.supply.lock`: constraints.txt for {' '.join(PURPOSES[purpose])}, without torch.\n"
        body = "\n".join(known[name] for name in sorted(names))
        if purpose in LISTED:
            head += "# The files of these hashes:\n"
            head += "".join(f"#   {file}\n" for name in sorted(names) for file in wheels[name])
        (REPOSITORY / "requirements" / f"{purpose}.txt").write_text(f"{head}{body}\n", encoding="utf-8")
    for tools in TOOLS:
        lines = (REPOSITORY / tools).read_text(encoding="utf-8").splitlines()
        head = "".join(f"{line}\n" for line in lines if line.startswith("#"))
        named = pinned("\n".join(line.rstrip(" \\") for line in lines if not line.startswith(" ")))
        body = "\n".join(lines_of(name, version, _files(name, version)) for name, version in sorted(named.items()))
        (REPOSITORY / tools).write_text(f"{head}{body}\n", encoding="utf-8")
    return 0


def _files(name: str, version: str) -> dict[str, str]:
    """sha256 by file name, of what may be installed of a version: wheels, and its source where a Linux lacks one."""
    page, lacks = _page(name), ""
    files = hashes(page, version)
    if missing := lacking(files):
        files |= sources(page, version)
        lacks = f", and its source for {', '.join(missing)}"
    if not files:
        raise SystemExit(f"the index has no {name} {version} for these Pythons and systems")
    print(f"{name:<30} {len(files)} files{lacks}")
    return files


if __name__ == "__main__":
    sys.exit(main())
