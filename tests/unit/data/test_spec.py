"""The language of data specs: every kind is named, and a wrong word is refused with what is allowed."""

import pytest

from zowarmup.data import DataError
from zowarmup.data.spec import _READERS, FORMS, PUBLISHED, WHOLE_FORMS, divide, load


def test_every_kind_is_named_to_who_gets_one_wrong() -> None:
    for kind in ("digits", *_READERS, *PUBLISHED):
        assert kind in FORMS
        assert kind in WHOLE_FORMS


@pytest.mark.parametrize("spec", ["", "digits", "npz:", "mnist:train", "csv"])
def test_what_is_no_spec_is_refused_with_all_forms(spec: str) -> None:
    with pytest.raises(DataError, match="is not known: use digits:I/N"):
        load(spec)


@pytest.mark.parametrize("spec", ["", "digits:1/2", "digits:test", "cifar10"])
def test_what_is_no_whole_set_cannot_be_shared_out(spec: str) -> None:
    with pytest.raises(DataError, match="cannot be shared out: use digits, cifar10:PATH"):
        divide(spec, 2, [0])


def test_options_are_those_of_the_kind() -> None:
    with pytest.raises(DataError, match="option size is not known"):
        load("npz:x.npz,size=3")
    with pytest.raises(DataError, match="it can be shared by 1 to 1437 clients"):
        divide("digits", 1438, [0])


def test_shares_are_what_each_client_would_load_by_itself() -> None:
    shared = divide("digits,alpha=0.1,seed=3", 10, [7, 2])
    for share, number in zip(shared, (8, 3), strict=True):
        alone = load(f"digits:{number}/10,alpha=0.1,seed=3")
        assert share.inputs.tobytes() == alone.inputs.tobytes()
        assert share.targets.tolist() == alone.targets.tolist()
