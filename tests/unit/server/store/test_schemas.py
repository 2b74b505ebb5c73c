"""Settings of algorithms through pydantic: read as the class that `algorithm` names, and written whole."""

import pytest
from pydantic import TypeAdapter, ValidationError

import zowarmup.server.store.schemas  # noqa: F401  (what it teaches pydantic is what is tested)
from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (WarmUp, warmup_settings("heterofl", rounds=7)),
        (ZerothOrder, zeroth_order_settings("fedkseed", rounds=3, pool=64)),
        (ZerothOrder, zeroth_order_settings(rounds=3, train="layers:a.*,b", probes=5)),
    ],
)
def test_there_and_back(base: type, settings: object) -> None:
    adapter: TypeAdapter[object] = TypeAdapter(base)
    written = adapter.dump_json(settings)
    found = adapter.validate_json(written)
    assert found == settings and type(found) is type(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('"fedavg"', "must be a table"),
        ('{"algorithm": "zowarmup", "rounds": "3"}', "rounds"),
        ('{"algorithm": "zowarmup", "rounds": 3, "pool": 9}', "pool"),
        ('{"algorithm": "zowarmup", "rounds": 3, "probes": 0}', "probes = 0: must be 1 to 4096"),
    ],
)
def test_what_is_no_settings_is_refused_by_field(given: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(ZerothOrder).validate_json(given)
