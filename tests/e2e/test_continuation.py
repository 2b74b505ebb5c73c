"""A run that goes on from the weights that another has exported, with real processes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.prepared import prepared
from zowarmup.cli.session.session import Session
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.lab.demo.settings import to_toml

FIRST = RunFile(
    name="first",
    seed=1,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=6, clients_per_round=1, quorum=1.0, learn_deadline=False),
    zeroth_order=zeroth_order_settings(rounds=60, clients_per_round=4, quorum=1.0, learn_deadline=False, rate=0.5),
    evaluation=Evaluation(data="digits:test", every=4),
)
NAMES = {"high-1": "high", "low-1": "low", "low-2": "low", "low-3": "low"}


def trained(made: Any, run: RunFile, text: Callable[[str], str] = str) -> list[float]:
    """Lead a run to its end: the accuracy of each version that was evaluated, in percent."""
    (made.folder / "run.toml").write_text(text(to_toml(run)))
    made.lead(None, "server", *prepared(run, made.prepared_models))
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        made.join(name, f"digits:{shard}/4,alpha=1", tier)
    made.finished(len(NAMES))
    with Session(made.address, deadline_s=10.0) as session:
        found = [100 * v.evaluation.metrics["accuracy"] for v in session.versions() if v.evaluation]
    made.processes.stop()
    return found


def test_going_on_at_the_rate_that_was_left_costs_no_accuracy(fleet: Callable[[], Any]) -> None:
    first = fleet()
    accuracy = trained(first, FIRST)[-1]
    assert accuracy > 80, "there is something to lose"
    prefix = first.folder / "good"
    exported = first.run_once("zowarmup.cli.main", "export", "--data-dir", str(first.data_dir), "--out", str(prefix))
    assert exported.returncode == 0, exported.stderr

    second = fleet()
    rounds = replace(FIRST.zeroth_order, rounds=24, rate=12.5)
    run = replace(
        FIRST,
        name="second",
        model=Model(name="mlp", weights=f"{prefix}.safetensors"),
        warmup=replace(FIRST.warmup, rounds=0),
        zeroth_order=rounds,
    )
    accuracies = trained(second, run, lambda text: text.replace("rate = 12.5", 'rate = "continue"'))
    assert accuracies[0] == accuracy, "it begins with those weights"
    assert len(accuracies) == 7 and min(accuracies) >= accuracy - 2
    assert "far above" not in second.logged("server")
