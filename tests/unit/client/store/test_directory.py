"""A device's directory: its identity, its lock, and what is said when it cannot be used."""

import errno
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zowarmup.client.errors import Final
from zowarmup.client.store.directory import Identity, Records, StateDirectory, default_directory, remove, write_whole
from zowarmup.common.messages.values import Tier

IDENTITY = Identity("low-3", "00ff", "run-1", Tier.LOW, "low")


def test_an_identity_is_kept_for_this_user_only(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "deep" / "state") as state:
        assert state.identity() is None
        state.keep(IDENTITY)
    with StateDirectory(tmp_path / "deep" / "state") as state:
        assert state.identity() == IDENTITY
        assert state.identity_for("run-1", "digits") == IDENTITY
    assert stat.S_IMODE((tmp_path / "deep" / "state" / "identity.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "deep" / "state").iterdir()) == ["identity.json", "lock"]


def test_a_leftover_readable_by_all_does_not_leak_the_secret(tmp_path: Path) -> None:
    (tmp_path / "identity.json.new").write_text("half")
    (tmp_path / "identity.json.new").chmod(0o644)
    with StateDirectory(tmp_path) as state:
        state.keep(IDENTITY)
    assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zowarmup.client.store.directory import StateDirectory\n"
        "state = StateDirectory(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Final, match=r"another process takes part .* --state-dir"):
            StateDirectory(tmp_path)
        other.kill()
    StateDirectory(tmp_path).close()  # a process that died holds nothing


def test_the_directory_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        state.keep(IDENTITY)
        with pytest.raises(Final) as fault:
            state.identity_for("run-2", "digits")
    for part in (str(tmp_path), "run-1", "run-2", "digits", "--state-dir"):
        assert part in str(fault.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"client": ""}', '{"client": 3}'])
def test_a_damaged_identity_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with StateDirectory(tmp_path) as state, pytest.raises(Final, match=r"identity.json is damaged"):
        state.identity()


def test_an_unknown_tier_is_damage_too(tmp_path: Path) -> None:
    raw = {"client": "a", "credential": "b", "run_id": "c", "tier": "middle", "name": "d"}
    (tmp_path / "identity.json").write_text(json.dumps(raw))
    with StateDirectory(tmp_path) as state, pytest.raises(Final, match="middle"):
        state.identity()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Final, match=r"cannot use the state directory .*/file/state .*--state-dir"):
        StateDirectory(tmp_path / "file" / "state")
    with pytest.raises(Final, match=r"cannot write .*gone/identity.json"):
        write_whole(tmp_path / "gone" / "identity.json", b"")


def test_programs_of_other_hashes_are_removed(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        old, new = state.artifact("program", b"\1" * 32), state.artifact("program", b"\2" * 32)
        old.write_bytes(b"old")
        old.with_name(old.name + ".part").write_bytes(b"old")
        new.write_bytes(b"new")
        assert state.artifact("program", b"\2" * 32) == new
        assert sorted(tmp_path.glob("program*")) == [new]


def test_the_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/pi")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_directory("pi-3") == Path("/home/pi/.local/state/zowarmup/pi-3")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_directory("pi-3") == Path("/var/state/zowarmup/pi-3")


def test_an_enrolment_without_an_answer_goes_on_with_the_same_credential(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        first = state.credential_for("run", Tier.LOW)
        assert (tmp_path / "enrolment.json").stat().st_mode & 0o777 == 0o600
        assert state.credential_for("run", Tier.LOW) == first
        assert state.credential_for("run", Tier.HIGH) != first
        (tmp_path / "enrolment.json").write_text("{")
        again = state.credential_for("run", Tier.LOW)
        assert again != first and len(again) == 64
        state.keep(Identity("pi", again, "run", Tier.LOW, "pi"))
        assert not (tmp_path / "enrolment.json").exists()
        assert again not in repr(state.identity())


def test_the_coordinators_authority_is_kept(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        assert state.authority() == b""
        state.keep_authority(b"pem")
        assert state.authority() == b"pem"


def test_whoever_looks_sees_whether_a_client_holds_it_and_takes_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path / "state")
    assert not records.in_use()
    with StateDirectory(tmp_path / "state"):
        assert records.in_use()
    assert not records.in_use()


def test_what_cannot_be_removed_stays_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "program-0123.onnx").write_bytes(b"old")
    (tmp_path / "program-4567.onnx").write_bytes(b"new")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        remove(tmp_path, "program-*", but=lambda file: "4567" in file.name)
    assert "cannot remove" in caplog.text and "Input/output error" in caplog.text
    remove(tmp_path, "program-*", but=lambda file: "4567" in file.name)
    assert [file.name for file in tmp_path.iterdir()] == ["program-4567.onnx"]
