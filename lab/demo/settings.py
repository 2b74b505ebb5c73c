"""The settings of the demo, and the run file that it writes.

Rates and sizes were found on the digits (docs/method.md). Everyone takes part in every round and a round waits for
all, so that a seed decides the result.
"""

import json
from dataclasses import asdict
from typing import Any

from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.plugin import is_plugin
from zowarmup.common.settings.run import PRETRAINED, Evaluation, Model, RunFile
from zowarmup.lab.demo.models import DemoModel

# As the paper probes: each direction on the whole of the local data, and nothing said of the head's gradient.
PAPER_MODE = {"probes": 8, "slices": "whole", "head_projections": 0}
ZEROTH_ORDER: dict[tuple[DemoModel, bool], dict[str, Any]] = {
    (DemoModel.MLP, False): {"rounds": 150},
    (DemoModel.CNN, False): {"rounds": 200},
    (DemoModel.MLP, True): {"rounds": 400, "rate": 0.3, **PAPER_MODE},
    (DemoModel.CNN, True): {"rounds": 400, "rate": 0.2, **PAPER_MODE},
}
"""By model, and whether as in the paper."""
PICTURES: dict[str, dict[str, Any]] = {
    "warmup": {"rounds": 20, "epochs": 2, "batch": 16, "rate": 0.05},
    "zeroth_order": {"rounds": 150},
}
"""Of a CNN, for pictures of 32 x 32. The warm-up was chosen on validation pictures of CIFAR-10; the rest are defaults."""


def demo_run(
    seed: int, model: DemoModel, high: int, low: int, paper_mode: bool = False, rounds: int | None = None
) -> RunFile:
    """The run of so many clients, with another number of zeroth-order rounds where one is given. Raises ValueError naming
    the field that cannot be."""

    zeroth_order = {**ZEROTH_ORDER[model, paper_mode], **({} if rounds is None else {"rounds": rounds})}
    warmup = {"rounds": 10, "epochs": 3, "rate": 0.1}
    return _run(seed, model, high, low, warmup, zeroth_order, Evaluation(data="digits:test", every=5))


def pictures_run(seed: int, high: int, low: int, held_out: str, rounds: int | None = None) -> RunFile:
    """The same on pictures. `held_out`: the spec of the set that the run is evaluated on."""
    zeroth_order = {**PICTURES["zeroth_order"], **({} if rounds is None else {"rounds": rounds})}
    evaluation = Evaluation(data=held_out, every=10)
    return _run(seed, DemoModel.CNN, high, low, PICTURES["warmup"], zeroth_order, evaluation)


def _run(
    seed: int,
    model: DemoModel,
    high: int,
    low: int,
    warmup: dict[str, Any],
    zeroth_order: dict[str, Any],
    evaluation: Evaluation,
) -> RunFile:
    def everyone(count: int) -> dict[str, Any]:
        return {"clients_per_round": count, "minimum_clients": count, "quorum": 1.0, "learn_deadline": False}

    return RunFile(
        name=f"demo-{model}-{seed}",
        seed=seed,
        draws="seed",
        model=Model(name=model.value),
        warmup=FedAvgSettings(**warmup, **everyone(high)),
        zeroth_order=ZOWarmUpSettings(**zeroth_order, **everyone(high + low)),
        evaluation=evaluation,
    )


def allowing(run: RunFile) -> list[str]:
    """What lets clients on this machine run the code of a run's model, task and algorithms: whoever starts them here has
    named it."""
    named = (run.model.name, run.model.task, run.warmup.algorithm, run.zeroth_order.algorithm)
    return [
        word
        for name in named
        if is_plugin(name) and not name.startswith(PRETRAINED)
        for word in ("--allow-model", name)
    ]


def to_toml(run: RunFile) -> str:
    """The run file as TOML, with all of its fields."""
    lines = [
        "# An ordinary run file, with every field: examples/digits.toml says what each is. Copy it, change it, and start a",
        "# run of your own with",
        "#   zowarmup-server run.toml --data-dir DIR",
    ]
    sections: dict[str, dict[str, Any]] = {"": {}}
    for name, value in asdict(run).items():
        if isinstance(value, dict):
            sections[name] = value
        else:
            sections[""][name] = value
    for name, section in sections.items():
        lines += ["", *([f"[{name}]"] if name else [])]
        lines += [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in section.items()]
    return "\n".join(lines) + "\n"
