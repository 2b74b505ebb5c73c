"""Labels: one class has one name, and classes one order, however they are written."""

import pytest

from zowarmup.data import DataError
from zowarmup.data.labels import class_order, label_name


@pytest.mark.parametrize(
    ("written", "name"), [("3", "3"), (" 03 ", "3"), ("3.0", "3"), ("-1", "-1"), ("ant", "ant"), ("a\u0308", "\xe4")]
)
def test_the_name_of_a_class(written: str, name: str) -> None:
    assert label_name("here", written) == name


@pytest.mark.parametrize(
    ("written", "said"),
    [("", "missing"), ("NaN", "missing"), ("0.5", "the label is 0.5"), ("a\tb", "control characters")],
)
def test_what_names_no_class(written: str, said: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{said}"):
        label_name("here", written)


@pytest.mark.parametrize(
    ("came", "names"), [(("10", "9", "-1"), ("-1", "9", "10")), (("b", "10", "9"), ("10", "9", "b"))]
)
def test_the_order_of_classes(came: tuple[str, ...], names: tuple[str, ...]) -> None:
    found, order = class_order({name: number for number, name in enumerate(came)})
    assert found == names
    assert [names[order[number]] for number in range(3)] == list(came)
