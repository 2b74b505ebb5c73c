import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.lab.demo.demo import DemoPlan
from zowarmup.lab.demo.settings import DemoModel, demo_settings, run_file, to_toml
from zowarmup.server.setup.run_file import read_run_file


@pytest.mark.parametrize("paper_mode", [False, True])
@pytest.mark.parametrize("model", list(DemoModel))
def test_the_run_file_written_is_the_run_meant(model: DemoModel, paper_mode: bool, tmp_path: Path) -> None:
    run = run_file('demo "x" \\ ä', 7, model, 1, 9, demo_settings(model, paper_mode, None))
    written = to_toml(run)
    raw = tomllib.loads(written)
    assert raw == asdict(run)
    tables = {
        "model": Model,
        "warmup": FedAvgSettings,
        "zeroth_order": ZOWarmUpSettings,
        "evaluation": Evaluation,
        "guard": Guard,
        "server": Server,
    }
    assert RunFile(**{**raw, **{name: kind(**raw[name]) for name, kind in tables.items()}}) == run
    (tmp_path / "run.toml").write_text(written, encoding="utf-8")
    assert read_run_file(tmp_path / "run.toml") == run
    assert all("  # " in line for line in written.splitlines() if " = " in line and not line.startswith("method"))


def test_everyone_takes_part_so_that_the_seed_decides() -> None:
    run = run_file("x", 0, DemoModel.MLP, 2, 3, demo_settings(DemoModel.MLP, False, None))
    assert (run.warmup.clients_per_round, run.warmup.minimum_clients, run.warmup.quorum) == (2, 2, 1.0)
    assert (run.zeroth_order.clients_per_round, run.zeroth_order.minimum_clients, run.zeroth_order.quorum) == (
        5,
        5,
        1.0,
    )


def test_paper_mode_probes_as_the_paper_does() -> None:
    settings = demo_settings(DemoModel.CNN, True, 12)
    assert (settings.probes, settings.slices, settings.head_projections, settings.rounds) == (8, "whole", 0, 12)


def test_members_share_the_digits_and_each_has_its_own_part() -> None:
    plan = DemoPlan(
        out=Path("x"), seed=0, model="mlp", high=1, low=2, alpha=0.1, settings=demo_settings(DemoModel.MLP, False, None)
    )
    assert [(m.name, m.tier, m.shard) for m in plan.members] == [
        ("high-1", Tier.HIGH, 1),
        ("low-1", Tier.LOW, 2),
        ("low-2", Tier.LOW, 3),
    ]
    assert plan.title == "zowarmup demo: mlp, 1 high + 2 low, alpha 0.1, seed 0"
