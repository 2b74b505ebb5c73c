"""The word that a device joins with."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.cli.certificates import init
from zowarmup.common.messages.invitation import Invitation
from zowarmup.common.settings.addresses import is_loopback


@given(st.binary(min_size=32, max_size=32))
def test_the_word_gives_the_secret_back(secret: bytes) -> None:
    invitation = Invitation(secret.hex())
    assert Invitation.from_word(f" {invitation.word}\n") == invitation


def test_the_word_gives_the_authority_back_and_is_one_word_of_a_shell(tmp_path: Path) -> None:
    init(tmp_path, ["host"])
    invitation = Invitation("ab" * 32, (tmp_path / "ca.crt").read_bytes())
    assert Invitation.from_word(invitation.word) == invitation
    assert not set(invitation.word) & set(" \t\n'\"\\$`!&|;<>()*?[]#~%{}")


def test_the_word_has_every_authority_of_several_coordinators(tmp_path: Path) -> None:
    for name in ("a", "b"):
        init(tmp_path / name, ["host"])
    one, other = ((tmp_path / name / "ca.crt").read_bytes() for name in ("a", "b"))
    invitation = Invitation("ab" * 32, b"comment\n" + one + other)
    assert Invitation.from_word(invitation.word).authority == one + other
    alone = Invitation("ab" * 32, one).word
    assert invitation.word.startswith(alone[: len(alone) // 4 * 4 - 4]), "of one it is as it was"
    torn = invitation.word[:-40]
    with pytest.raises(ValueError, match="damaged"):
        Invitation.from_word(torn)


@given(st.text())
def test_no_other_text_is_an_invitation_and_none_is_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"damaged|zw1") as caught:
        Invitation.from_word(text)
    assert len(text) < 8 or text not in str(caught.value)


@pytest.mark.parametrize("word", ["zw1.AAAA.", "zw1.A.", "zw1." + "A" * 43 + ".A", "zw2." + "A" * 43 + "."])
def test_a_torn_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"damaged|zw1"):
        Invitation.from_word(word)


def test_a_secret_does_not_show_in_a_repr() -> None:
    assert "ab" * 8 not in repr(Invitation("ab" * 32))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("128.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
