"""What a run is refused for before it begins."""

from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.faults.small import LAYOUT, WHITENED
from zowarmup.common.exact.layout import Layout
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.setup.open_run import StartError, require_short

RUN = RunFile(
    name="secure",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=0),
    zeroth_order=zeroth_order_settings("decomfl", rounds=2),
    evaluation=Evaluation(data="digits:test"),
    privacy=Privacy(secure_aggregation=True),
)


@pytest.mark.parametrize(
    ("settings", "layout", "sentence"),
    [
        (
            {"head_projections": 4096, "probes": 4096},
            LAYOUT,
            "65,552 bytes.*lower zeroth_order.probes, head_projections",
        ),
        ({}, WHITENED, ""),
    ],
)
def test_a_sum_that_no_message_holds_is_refused(settings: dict[str, Any], layout: Layout, sentence: str) -> None:
    run = replace(RUN, zeroth_order=changed(RUN.zeroth_order, **settings))
    if not sentence:
        require_short(run, layout)
        return
    with pytest.raises(StartError, match=sentence):
        require_short(run, layout)
