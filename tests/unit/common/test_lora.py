"""Low-rank adapters as `train` names them."""

import pytest

from tests.algorithms import zeroth_order_settings
from zowarmup.common.lora import Lora


def test_adapters_are_read_from_a_setting() -> None:
    assert Lora.of("lora:r=8,modules=q,v") == Lora(8, ("q", "v"))
    assert Lora.of("lora:r=1,modules=down") == Lora(1, ("down",))
    assert [Lora.of(train) for train in ("auto", "norm", "layers:lora*")] == [None, None, None]


@pytest.mark.parametrize(
    "train",
    ["lora:", "lora:r=8", "lora:r=,modules=q", "lora:r=8,modules=", "lora:r=0,modules=q", "lora:r=257,modules=q",
     "lora:r=8,modules=q,q", "lora:r=8,modules=query", "lora:r=-1,modules=q", "lora:r=٣,modules=q", "lora:modules=q,r=8"],
)  # fmt: skip
def test_what_names_no_adapters_is_refused_by_name(train: str) -> None:
    with pytest.raises(ValueError, match=r"train = 'lora:.*must be"):
        zeroth_order_settings(rounds=1, clients_per_round=1, train=train)
