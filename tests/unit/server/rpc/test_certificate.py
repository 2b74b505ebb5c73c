"""The coordinator's certificate in use: taken anew when its files change whole, kept when they do not."""

import logging
from pathlib import Path

import pytest

from zowarmup.cli import certificates
from zowarmup.cli.certificates import init
from zowarmup.common.settings.run import Server
from zowarmup.server.rpc.certificate import DAY_S, Certificates

NOW = 1_800_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Server:
    init(tmp_path, ["host"])
    return Server(tls_certificate=str(tmp_path / "server.crt"), tls_key=str(tmp_path / "server.key"))


def test_a_renewal_is_in_use_at_the_next_look(settings: Server, tmp_path: Path) -> None:
    held = Certificates(settings)
    before = held.current
    assert not held.look(NOW)
    certificates.server(tmp_path, [], days=3000)
    assert held.look(NOW)
    assert held.current.chain == (tmp_path / "server.crt").read_bytes() != before.chain
    assert held.current.expires_at < before.expires_at
    assert not held.look(NOW)


def test_half_a_renewal_changes_nothing_until_the_other_half_is_there(
    settings: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = Certificates(settings)
    before = held.current
    init(tmp_path / "other", ["host"])
    (tmp_path / "server.key").write_bytes((tmp_path / "other" / "server.key").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert not held.look(NOW) and not caplog.records  # somebody may just be writing them
        assert not held.look(NOW)
        assert "the one from before stays in use" in caplog.text
        assert not held.look(NOW) and len(caplog.records) == 1
    assert held.current == before
    (tmp_path / "server.crt").unlink()
    assert not held.look(NOW)
    (tmp_path / "server.crt").write_bytes((tmp_path / "other" / "server.crt").read_bytes())
    assert held.look(NOW)
    assert held.current.chain == (tmp_path / "other" / "server.crt").read_bytes()


def test_a_certificate_that_has_expired_does_not_replace_a_good_one(
    settings: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = Certificates(settings)
    before = held.current
    certificates.server(tmp_path, [], days=1)
    assert not held.look(before.expires_at - DAY_S) and not held.look(before.expires_at - DAY_S)
    assert held.current == before
    assert "has expired" in caplog.text


def test_an_expiry_is_announced_once_a_day_from_a_month_before(
    settings: Server, caplog: pytest.LogCaptureFixture
) -> None:
    held = Certificates(settings)
    expires_at = held.current.expires_at
    held.warn(expires_at - 31 * DAY_S)
    assert not caplog.records
    for hours in (0, 1, 23, 25):
        held.warn(expires_at - 29 * DAY_S + hours * 3600)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "expires in 29 days" in caplog.text and "zowarmup certs server" in caplog.text
    held.warn(expires_at + DAY_S)
    assert "has expired" in caplog.text
