"""The child of the preparation, in this process: what it leaves, and what it says of the weights that it begins with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.exact.layout import Layout, no_whitening
from zowarmup.common.models.construction import build
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.server.setup.build_model import build_run
from zowarmup.server.setup.prepare import LAYOUT, PROGRAM, WEIGHTS

SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=(1, 8, 8), classes=10),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=1),
)


def test_a_run_begins_with_a_state_dict_and_keeps_its_own_head_where_the_classes_differ(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    of_three = build(SPEC.model, SPEC.input_shape, 3, seed=9)
    torch.save(of_three.state_dict(), file)
    remark = build_run(replace(SPEC, model=replace(SPEC.model, weights=str(file))), 5, tmp_path)
    assert remark == f"{file}: its head is of 3 classes: that of the run begins at random weights"
    layout = Layout.from_json((tmp_path / LAYOUT).read_text())
    found = layout.views(np.fromfile(tmp_path / WEIGHTS, dtype="<f4"))
    mine = build(SPEC.model, SPEC.input_shape, 10, seed=5).state_dict()
    assert layout.whitening is not None
    mine[layout.whitening.name] = torch.from_numpy(no_whitening(*np.subtract(layout.whitening.shape, (2, 0))))
    for name, view in found.items():
        wanted = of_three.state_dict()[name] if name.startswith("1.") else mine[name]
        np.testing.assert_array_equal(view, wanted.numpy())
    assert (tmp_path / PROGRAM).stat().st_size > 0


def test_of_random_weights_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert build_run(SPEC, 5, tmp_path) == ""
