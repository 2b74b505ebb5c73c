"""The pictures of the dashboards in docs/pictures: `make pictures` records a run and draws what it recorded.

A fleet of ten trains a small convolutional network on the digits, watched by a real Prometheus, once a second. On the way
one device freezes for a while, the low tier falls out of power, and the coordinator is killed, so that there is something
to see. Grafana itself is not needed; the questions are those of the committed dashboards.
"""

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path

from deploy.grafana.asking import read_all, substituted
from deploy.grafana.drawing import Recording, draw
from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.monitoring.live import REPOSITORY, fleet, prometheus
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server

HIGH, LOW = 3, 7
RUN = RunFile(
    name="digits",
    seed=0,
    draws="seed",
    model=Model(name="cnn"),
    warmup=warmup_settings(rounds=8, clients_per_round=HIGH, quorum=1.0, learn_deadline=False, epochs=2),
    zeroth_order=zeroth_order_settings(
        rounds=250, clients_per_round=HIGH + LOW, minimum_clients=8, quorum=0.7, deadline_s=3.0, learn_deadline=False,
        probes=32, head_projections=32, rate=0.5,
    ),
    evaluation=Evaluation(data="digits:test", every=5),
    server=Server(abandoned_limit=50),
)  # fmt: skip
VARIABLES = {"job": "zowarmup", "run": RUN.name, "window": "15s", "__rate_interval": "5s"}


def record(folder: Path) -> Recording:
    with fleet(folder, RUN, HIGH, LOW) as devices, prometheus(folder, devices.metrics) as watching:
        version = f'zowarmup_model_version{{run="{RUN.name}"}}'

        def until(expr: str) -> None:
            watching.until(expr, 300, devices.sound)

        devices.lead()
        until("up == 1")
        start = time.time() - 2
        for name in devices.tiers:
            devices.join(name)
        until(f"{version} >= 60")
        devices.signal("low-2", signal.SIGSTOP)
        devices.stranger()
        time.sleep(8)
        devices.signal("low-2", signal.SIGCONT)
        until(f"{version} >= 110")
        low = [name for name, tier in devices.tiers.items() if tier == "low"]
        for name in low:
            devices.kill(name)
        until('ALERTS{alertname="ZowarmupTierLost", alertstate="firing"}')
        for name in low:
            devices.join(name, " again")
        until(f"{version} >= 180")
        devices.kill("coordinator")
        until('ALERTS{alertname="ZowarmupCoordinatorDown", alertstate="firing"}')
        devices.lead("coordinator again")
        until('zowarmup_phase{phase="finished"} == 1')
        time.sleep(5)
        end = time.time()
        exprs = {target.expr for board in read_all() for panel in board.panels for target in panel.targets}
        answers = {expr: watching.between(substituted(expr, VARIABLES), start, end) for expr in exprs}
        for board in read_all():
            for expr in board.marks.values():
                answers[expr] = watching.between(substituted(expr, VARIABLES), start, end)
        return Recording(start, end, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "pictures")
    parser.add_argument("--recorded", type=Path, help="draw this recording again; where it is missing, make it")
    arguments = parser.parse_args()
    kept = arguments.recorded
    if kept is not None and kept.exists():
        recording = Recording(**json.loads(kept.read_text()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            recording = record(Path(folder))
        if kept is not None:
            kept.write_text(json.dumps({"start": recording.start, "end": recording.end, "answers": recording.answers}))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for board in read_all():
        path = arguments.out / f"{board.uid.removeprefix('zowarmup-')}.png"
        draw(board, recording, path)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
