import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.common.settings.text import Text
from zowarmup.common.settings.tracking import Tracking
from zowarmup.lab.demo.demo import demo_plan
from zowarmup.lab.demo.models import DemoModel
from zowarmup.lab.demo.settings import demo_run, pictures_run, to_toml
from zowarmup.server.setup.run_file import read_run_file


@pytest.mark.parametrize("paper_mode", [False, True])
@pytest.mark.parametrize("model", list(DemoModel))
def test_the_run_file_written_is_the_run_meant(model: DemoModel, paper_mode: bool, tmp_path: Path) -> None:
    run = replace(demo_run(7, model, 1, 9, paper_mode), name='demo "x" \\ ä')
    written = to_toml(run)
    raw = tomllib.loads(written)
    assert raw == json.loads(json.dumps(asdict(run)))
    tables = {
        "model": Model,
        "warmup": FedAvgSettings,
        "zeroth_order": ZOWarmUpSettings,
        "evaluation": Evaluation,
        "text": Text,
        "guard": Guard,
        "server": Server,
        "tracking": Tracking,
        "privacy": Privacy,
    }
    raw["text"]["verbalizers"] = tuple(raw["text"]["verbalizers"])
    assert RunFile(**{**raw, **{name: kind(**raw[name]) for name, kind in tables.items()}}) == run
    (tmp_path / "run.toml").write_text(written, encoding="utf-8")
    assert read_run_file(tmp_path / "run.toml") == run


def test_lists_are_written_too(tmp_path: Path) -> None:
    text = Text(template="{text} It was", verbalizers=(' "bad"', " größer 😀"))
    run = replace(demo_run(0, DemoModel.MLP, 1, 1), model=Model(name="hf:smollm2"), text=text)
    (tmp_path / "run.toml").write_text(to_toml(run), encoding="utf-8")
    assert read_run_file(tmp_path / "run.toml") == run


def test_everyone_takes_part_so_that_the_seed_decides() -> None:
    run = demo_run(0, DemoModel.MLP, 2, 3)
    assert (run.warmup.clients_per_round, run.warmup.minimum_clients, run.warmup.quorum) == (2, 2, 1.0)
    assert (run.zeroth_order.clients_per_round, run.zeroth_order.minimum_clients, run.zeroth_order.quorum) == (
        5,
        5,
        1.0,
    )


def test_paper_mode_probes_as_the_paper_does() -> None:
    settings = demo_run(0, DemoModel.CNN, 1, 9, True, 12).zeroth_order
    assert isinstance(settings, ZOWarmUpSettings)
    assert (settings.probes, settings.slices, settings.head_projections, settings.rounds) == (8, "whole", 0, 12)


def test_pictures_have_settings_of_their_own() -> None:
    run = pictures_run(3, 2, 3, "folder:held-out", rounds=12)
    settings = run.zeroth_order
    assert isinstance(settings, ZOWarmUpSettings)
    assert (run.name, run.model.name, run.evaluation.data) == ("demo-cnn-3", "cnn", "folder:held-out")
    assert (settings.train, settings.rounds, settings.clients_per_round) == ("auto", 12, 5)
    assert (run.warmup.clients_per_round, run.warmup.quorum) == (2, 1.0)


def test_members_share_the_digits_and_each_has_its_own_part() -> None:
    plan = demo_plan(Path("x"), demo_run(0, DemoModel.MLP, 1, 2), high=1, low=2, alpha=0.1)
    assert [(m.name, m.tier, m.data) for m in plan.members] == [
        ("high-1", Tier.HIGH, "digits:1/3,alpha=0.1,seed=0"),
        ("low-1", Tier.LOW, "digits:2/3,alpha=0.1,seed=0"),
        ("low-2", Tier.LOW, "digits:3/3,alpha=0.1,seed=0"),
    ]
    assert plan.title == "zowarmup demo: mlp, 1 high + 2 low, alpha 0.1, seed 0"
