"""What is installed is what was tested: packages by version and hash, a bill of materials, and a package that is signed."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.supply.lock import LEFT_OUT, PURPOSES, closure, hashes, lacking, pinned, sources
from tests.deployment.conftest import DEPLOY, REPOSITORY

SBOM = REPOSITORY / ".build/sbom/bin/cyclonedx-py"


def locked(purpose: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by name."""
    text = (REPOSITORY / "requirements" / f"{purpose}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, version, *rest = re.split(r"==| +", line)
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in rest), line
            found[name] = (version, rest)
    return found


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_package_of_a_purpose_has_the_tested_version_and_hashes(purpose: str) -> None:
    versions = pinned((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    found = locked(purpose)
    assert set(found) == closure(PURPOSES[purpose]) - LEFT_OUT, "run `make lock`"
    assert {name: version for name, (version, _) in found.items()} == {name: versions[name] for name in found}
    assert all(one for _, one in found.values())


def test_which_files_of_a_version_may_be_installed() -> None:
    names = (
        "x-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "x-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "x-1.0-cp39-abi3-macosx_11_0_arm64.whl",
        "x-1.0-cp313-cp313t-manylinux_2_28_x86_64.whl",
        "x-1.0-cp310-cp310-manylinux_2_28_x86_64.whl",
        "x-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
        "x-1.0-cp311-cp311-win_amd64.whl",
        "x-1.1-py3-none-any.whl",
        "x-1.0-py314-none-any.whl",
        "x-1.0.tar.gz",
    )
    page = {"files": [{"filename": name, "hashes": {"sha256": name}} for name in names]}
    assert list(hashes(page, "1.0")) == list(names[:3])
    assert lacking(names[:3]) == ["312 x86_64", "312 aarch64", "313 x86_64", "313 aarch64"]
    assert lacking(["x-1.1-py3-none-any.whl"]) == []
    assert lacking([f"x-1.1-py3{minor}-none-any.whl" for minor in (11, 12, 13)]) == []
    assert list(sources(page, "1.0")) == ["x-1.0.tar.gz"]


def test_images_and_continuous_integration_install_by_hash() -> None:
    recipe = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
    by_hash = [line for line in re.split(r"&&|\n(?=[A-Z])", recipe) if "pip install" in line]
    others = [line for line in by_hash if "--require-hashes --no-deps" not in line]
    assert len(by_hash) - len(others) == 4
    assert all(
        "--no-deps /wheels/" in line or line.rstrip(" \\\n").endswith("constraints.txt torch") for line in others
    )
    assert "--require-hashes --no-deps -r requirements/test.txt" in (REPOSITORY / "Makefile").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("purpose", ["client", "server", "test"])
def test_the_bill_of_materials_is_what_is_installed(purpose: str, tmp_path: Path) -> None:
    if not SBOM.exists():
        assert not os.environ.get("CI"), f"{SBOM} is missing: make .build/sbom/ready"
        pytest.skip("cyclonedx-py is not here: make .build/sbom/ready")
    out = tmp_path / "bill.json"
    command = [str(SBOM), "requirements", "--output-reproducible", "-o", str(out)]
    command += ["--pyproject", str(REPOSITORY / "pyproject.toml"), str(REPOSITORY / f"requirements/{purpose}.txt")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    bill = json.loads(out.read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "zowarmup"
    listed = {part["name"].lower().replace("_", "-").replace(".", "-"): part for part in bill["components"]}
    found = locked(purpose)
    assert {name: part["version"] for name, part in listed.items()} == {name: v for name, (v, _) in found.items()}
    for name, (_, hashed) in found.items():
        known = {one["content"] for ref in listed[name]["externalReferences"] for one in ref.get("hashes", ())}
        assert known == {one.rpartition(":")[2] for one in hashed}


@pytest.fixture
def signed(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The installer's look at a package that one signer has signed, after `spoil` has done something to it."""

    def keys(name: str) -> Path:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
        kind, key, _ = (tmp_path / f"{name}.pub").read_text().split()
        (tmp_path / f"{name}.signers").write_text(f"zowarmup {kind} {key}\n")
        return tmp_path / name

    def look(spoil: str, *options: str, signer: str = "release") -> "subprocess.CompletedProcess[str]":
        folder, root = tmp_path / "dist", tmp_path / "root"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        wheel = folder / "zowarmup-0.1.0-py3-none-any.whl"
        wheel.write_bytes(b"a package")
        if not (tmp_path / signer).exists():
            keys(signer)
        sign = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(tmp_path / signer), "-n", "zowarmup", str(wheel)]
        subprocess.run(sign, check=True, capture_output=True)
        with (folder / "SHA256SUMS").open("w") as sums:
            subprocess.run(["sha256sum", wheel.name], cwd=folder, stdout=sums, check=True)
        script = f"cd {folder}; {spoil}; source {DEPLOY}/device/client.sh; options --root {root} --wheel {wheel} "
        script += f"{' '.join(options)}; find_wheel; verify_wheel"
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    return look


Look = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_device_that_knows_a_signer_installs_what_that_one_signed_and_nothing_else(
    signed: Look, tmp_path: Path
) -> None:
    assert signed("rm *.sig").returncode == 0, "nobody has said who signs"
    by = f"--signers {tmp_path}/release.signers"
    done = signed("true", by)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is signed by one of" in done.stdout
    # From then on without being told.
    assert "is signed by one of" in signed("true").stdout
    for spoil, said in (
        ("rm *.sig", "there is no"),
        ("rm SHA256SUMS; echo more >> *.whl", "is not signed by anybody in"),
        ("echo more >> *.whl", "is not what"),
        ("sed -i s/zowarmup-0.1.0/zowarmup-0.2.0/ SHA256SUMS", "is not what"),
    ):
        done = signed(spoil)
        assert (done.returncode, said in done.stderr) == (1, True), (spoil, done.stderr)
    done = signed("true", signer="stranger")
    assert (done.returncode, "is not signed by anybody in" in done.stderr) == (1, True)
