"""Prefixes as `train` names them."""

import pytest

from tests.algorithms import zeroth_order_settings
from zowarmup.common.prefix import prefix_length


def test_the_length_of_a_prefix_is_read_from_a_setting() -> None:
    assert [prefix_length(train) for train in ("prefix:5", "prefix:256", "auto", "layers:prefix*")] == [5, 256, 0, 0]


@pytest.mark.parametrize(
    "train", ["prefix:", "prefix:0", "prefix:257", "prefix:-1", "prefix:5,5", "prefix:٣", "prefix:n=5"]
)
def test_what_names_no_prefix_is_refused_by_name(train: str) -> None:
    with pytest.raises(ValueError, match=r"train = 'prefix:.*it must be as \"prefix:5\""):
        zeroth_order_settings(rounds=1, clients_per_round=1, train=train)
