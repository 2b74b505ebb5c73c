"""What the demo trains by default, and the run file that it writes.

Rates and sizes were found on the digits (docs/method.md). Everyone takes part in every round and a round waits for
all, so that a seed decides the result.
"""

import json
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Literal

from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.plugin import is_plugin
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server, WarmUp, ZerothOrder

DemoSection = Model | WarmUp | ZerothOrder | Evaluation | Guard | Server


class DemoModel(StrEnum):
    """What a demo can train."""

    MLP = "mlp"
    CNN = "cnn"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """The phases' settings as in `common/settings/run.py`; `evaluate_every`: versions between evaluations."""

    warmup_rounds: int = 10
    warmup_epochs: int = 3
    warmup_rate: float = 0.1
    rounds: int = 300
    probes: int = 32
    slices: Literal["own", "whole"] = "own"
    head_projections: int = 32
    rate: float = 0.8
    evaluate_every: int = 5


DEFAULTS = {
    DemoModel.MLP: DemoSettings(),
    DemoModel.CNN: DemoSettings(rounds=250, rate=0.5),
}
# As the paper probes: each direction on the whole of the local data, and nothing said of the head's gradient.
PAPER_MODE = {
    DemoModel.MLP: DemoSettings(rounds=400, probes=8, slices="whole", head_projections=0, rate=0.3),
    DemoModel.CNN: DemoSettings(rounds=400, probes=8, slices="whole", head_projections=0, rate=0.2),
}

COMMENTS = {
    "reflection": "Whether gRPC describes the service to anyone who asks; on loopback it always does.",
    "name": "Shown in status and reports.",
    "seed": "Decides the initial weights.",
    "draws": "seed: it also decides who takes part and every direction; secret: random bits of the coordinator's do.",
    "model.name": "mlp, cnn, cnn1d, resnet18, vit, or package.module:factory for your own.",
    "model.task": "What it is trained for: classification or package.module:Task.",
    "model.norm": "Normalisation of resnet18: group or batch.",
    "model.weights": "A safetensors file to start from; empty: random weights from the seed.",
    "warmup": 'The warm-up: the high tier trains and uploads deltas (with "heterofl" both tiers).',
    "zeroth_order": "From the pivot on everyone takes part, by forward passes and a few scalars a round.",
    "rounds": "How many rounds the phase has.",
    "clients_per_round": "At most so many clients are drawn for a round.",
    "minimum_clients": "A round opens when so many are connected; 0: clients_per_round.",
    "quorum": "The share of them that must contribute for a round to count.",
    "deadline_s": "Seconds until a round closes without those that are missing, at the latest.",
    "learn_deadline": "Sooner where past rounds show that less is enough.",
    "over_selection": "So many more are drawn, as a share, than the round needs: it closes without the slowest.",
    "weighting": "How clients count in the mean: by the examples that they claim, or uniform.",
    "most_examples": "A client counts with so many at most; 0: no limit.",
    "most_times_median": "And with so many times the median claim of the round's clients at most; 0: no limit.",
    "aggregate": "mean; or, coordinate by coordinate and with uniform weights, trimmed (mean) or median.",
    "trim": "Of trimmed: this share of the clients' values is left out at either end.",
    "warmup.epochs": "Passes over the local data in a round.",
    "warmup.batch": "Examples a step of local SGD.",
    "warmup.rate": "Rate of local SGD.",
    "warmup.server_rate": "The model moves by so much of the mean delta.",
    "warmup.clip": "A delta longer than this times the others', or than the model, is scaled down to it; 0: none is.",
    "warmup.method": "fedavg, or an optimiser on the server: fedadam, fedyogi; heterofl: the low tier trains too.",
    "warmup.pivot": "rounds: after all of them; auto: sooner, once the loss no longer falls.",
    "warmup.patience": "Of auto: it compares the loss of so many rounds with that of as many before.",
    "warmup.least_improvement": "Of auto: by this share it must have fallen.",
    "zeroth_order.directions": "Of probes: signs; gaussian: near enough normal variates, for comparison.",
    "zeroth_order.probes": "Directions that a client probes in a round.",
    "zeroth_order.slices": "own: each probe on its own slice of the local data; whole: each on all of it, as in the paper.",
    "zeroth_order.head_projections": "Exact projections of the gradient of the model's last layer; 0: none.",
    "zeroth_order.gradient_projections": "Exact ones of the whole gradient from the high tier instead of probes; 0: it probes.",
    "zeroth_order.method": "zowarmup: each client has its own directions; others (decomfl, fedkseed, mixed): docs/method.md.",
    "zeroth_order.local_steps": "So often does a client probe in a round, moving its own replica in between.",
    "zeroth_order.local_rate": "Rate of those moves; 0: as rate.",
    "zeroth_order.eps": "Length of a probe.",
    "zeroth_order.tau": "The paper's scale of the directions, folded into eps and rate.",
    "zeroth_order.rate": "Rate of the steps.",
    "zeroth_order.step": "normalized: divided by the round's root-mean-square scalar, annealed; raw: as in the paper; adam.",
    "zeroth_order.beta2": "Of adam: how much of the past its running mean keeps a round.",
    "zeroth_order.clip": "A client's scalars beyond this times the others' are scaled down to it; 0: none are.",
    "zeroth_order.micro_batch": "Examples a forward pass, which bounds a client's memory.",
    "zeroth_order.snapshot_every": "Versions between snapshots on the coordinator's disk; fewer where a replay takes long.",
    "evaluation": "The held-out set.",
    "evaluation.data": "digits:test, digits:validation, npz:PATH, folder:PATH or, say, cifar10:PATH:test.",
    "evaluation.every": "Versions between evaluations.",
    "guard": "What becomes of a version that is no good: the run goes back and halves its learning rate.",
    "guard.factor": "A held-out loss of so many times the lowest so far is no good; 0: the guard is off.",
    "guard.rollbacks": "After so many returns the next one ends the run.",
    "server.address": "Where to listen. The demo says --address instead, with a port that was free.",
    "server.keep_snapshots": "How many of the newest to keep, beside the pivot's.",
    "server.abandoned_limit": "So many abandoned rounds in a row pause the run.",
    "server.enrolment": "open, or invited: with a token only; empty: open on loopback, invited elsewhere.",
    "server.tls_certificate": "The coordinator's certificate, a PEM file; empty: plain text, on loopback only.",
    "server.tls_key": "Its private key, a PEM file.",
    "server.client_ca": "Clients must show a certificate of this authority, a PEM file; empty: none.",
    "server.spool_mb": "What uploads of unfinished rounds may take on disk.",
    "server.messages_per_second": "What one client may send, beyond an answer to each piece of work.",
    "server.health_address": "Where probes without a certificate ask for gRPC health; empty: only at address.",
    "server.metrics_address": "Where Prometheus finds /metrics; empty: nowhere.",
    "server.metrics_plaintext": "Plain HTTP for it, even beside a certificate or where it is not loopback.",
    "server.metrics_user": "Who may scrape, with the password below; empty: whoever reaches the address.",
    "server.metrics_password_file": "A file whose first line is the password.",
}


def demo_settings(model: DemoModel, paper_mode: bool, rounds: int | None) -> DemoSettings:
    """The settings of a model, with another number of zeroth-order rounds where one is given."""
    chosen = (PAPER_MODE if paper_mode else DEFAULTS)[model]
    return chosen if rounds is None else replace(chosen, rounds=rounds)


def run_file(name: str, seed: int, model: str, high: int, low: int, settings: DemoSettings) -> RunFile:
    """The run of `high` and `low` clients. Raises ValueError naming the field that cannot be."""
    return RunFile(
        name=name,
        seed=seed,
        draws="seed",
        model=Model(name=model),
        warmup=FedAvgSettings(
            rounds=settings.warmup_rounds,
            clients_per_round=high,
            minimum_clients=high,
            quorum=1.0,
            learn_deadline=False,
            epochs=settings.warmup_epochs,
            rate=settings.warmup_rate,
        ),
        zeroth_order=ZOWarmUpSettings(
            rounds=settings.rounds,
            clients_per_round=high + low,
            minimum_clients=high + low,
            quorum=1.0,
            learn_deadline=False,
            probes=settings.probes,
            slices=settings.slices,
            head_projections=settings.head_projections,
            rate=settings.rate,
        ),
        evaluation=Evaluation(data="digits:test", every=settings.evaluate_every),
    )


def allowing(model: Model) -> list[str]:
    """What lets clients on this machine run the code of a model and its task: whoever starts them here has named it."""
    return [word for name in (model.name, model.task) if is_plugin(name) for word in ("--allow-model", name)]


def to_toml(run: RunFile) -> str:
    """The run file as TOML, with a comment for each field."""
    lines = [
        "# Written by zowarmup demo. It is an ordinary run file: copy it, change it, and start a run of your own with",
        "#   zowarmup-server run.toml --data-dir DIR",
        "",
        *_fields(run, ""),
    ]
    parts: tuple[tuple[str, DemoSection], ...] = (
        ("model", run.model),
        ("warmup", run.warmup),
        ("zeroth_order", run.zeroth_order),
        ("evaluation", run.evaluation),
        ("guard", run.guard),
        ("server", run.server),
    )
    for table, part in parts:
        lines.append("")
        if table in COMMENTS:
            lines.append(f"# {COMMENTS[table]}")
        lines += [f"[{table}]", *_fields(part, table)]
    return "\n".join(lines) + "\n"


def _fields(part: DemoSection | RunFile, table: str) -> list[str]:
    lines = []
    for item in fields(part):
        value = getattr(part, item.name)
        if isinstance(value, str | int | float):
            comment = COMMENTS.get(f"{table}.{item.name}" if table else item.name) or COMMENTS.get(item.name, "")
            setting = f"{item.name} = {json.dumps(value)}"
            lines.append(f"{setting:<32}  # {comment}" if comment else setting)
    return lines
