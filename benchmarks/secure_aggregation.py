"""What secure aggregation costs: one round with every device and the coordinator's core in this process.

    python -m benchmarks.secure_aggregation --clients 20 100 --lost 0 0.33
    python -m benchmarks.secure_aggregation --clients 1000 --lost 0.33     # some minutes, and 1 GB

Devices and the coordinator do what they do in a run, but for a model, a network and a disk: devices hold made-up scalars, and what
goes between them is serialised. Who is lost goes in three equal parts: after the keys, after the shares, after the masked
vectors. The sum is held against that of the survivors' numbers. Times are processor time, one core: a device's are the median of
all, the coordinator's those of the whole round.
"""

import argparse
import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from tests.faults.small import LAYOUT
from tests.unit.server.test_coordinator import CREATED
from zowarmup.client.work.masking import Masking
from zowarmup.common.messages.codec import ask_from_wire, ask_to_wire, step_from_wire, step_to_wire
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Phase, Scalars, Tier
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.secure_aggregation.roster import KEYS_BYTES, Stage
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Guard
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.decide import decide, work_for
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.masking import ask_for, mean_of, sum_of
from zowarmup.server.core.state import State
from zowarmup.v1 import coordinator_pb2 as wire

EXAMPLES = 100
_T = TypeVar("_T")


@dataclass
class Costs:
    """Of one round: seconds of each device and of the coordinator, and bytes of each device, by stage."""

    device_s: dict[Stage, list[float]] = field(default_factory=lambda: defaultdict(list))
    coordinator_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    up: dict[Stage, list[int]] = field(default_factory=lambda: defaultdict(list))
    down: dict[Stage, list[int]] = field(default_factory=lambda: defaultdict(list))

    def of_device(self, stage: Stage, work: Callable[[], _T]) -> _T:
        begun = time.process_time()
        found = work()
        self.device_s[stage].append(time.process_time() - begun)
        return found

    def of_coordinator(self, what: str, work: Callable[[], _T]) -> _T:
        begun = time.process_time()
        found = work()
        self.coordinator_s[what] += time.process_time() - begun
        return found


class OneRound:
    """A round of a run of its own.

    Args:
        count: How many devices take part.
        lost: The share of them that drops out.
        probes: How many each measures.
        projections: The same.
    """

    def __init__(self, count: int, lost: float, probes: int, projections: int) -> None:
        settings = {"probes": probes, "head_projections": projections, "whitening": 0, "clients_per_round": count}
        rounds = zeroth_order_settings("decomfl", rounds=1, quorum=0.5, learn_deadline=False, **settings)
        warmup = replace(CREATED.run_file.warmup, rounds=0)
        run = replace(
            CREATED.run_file,
            warmup=warmup,
            zeroth_order=rounds,
            privacy=Privacy(secure_aggregation=True),
            guard=Guard(factor=0),
        )
        program = replace(CREATED.program, layout=LAYOUT.to_json())
        self.state: State = evolve(None, replace(CREATED, run_file=run, program=program))
        self.names, self.costs, self.now = [f"client-{number:04}" for number in range(count)], Costs(), 1000.0
        self.given: dict[str, NDArray[np.uint64]] = {}
        self.devices: dict[str, Masking] = {}
        draws = np.random.default_rng(0)
        for name in self.names:
            identity = draws.bytes(32)
            key, credential = verification_key(identity).hex(), hashlib.sha256(name.encode()).hexdigest()
            self.do("", cmd.Enrol(name, Tier.LOW, EXAMPLES, credential, identity=key))
            self.devices[name] = Masking("run", name, identity, rounds, bytes(32))
        for epoch, name in enumerate(self.names, 1):
            self.do("", cmd.ConnectClient(name, epoch, EXAMPLES))
        leaving = [int(place) for place in np.linspace(0, count - 1, int(lost * count))]
        self.leaving = {
            stage: leaving[part::3] for part, stage in enumerate((Stage.SHARES, Stage.MASKED, Stage.SIGNED))
        }

    def do(self, what: str, command: cmd.Command) -> None:
        self.state = self.costs.of_coordinator(what, lambda: decide(self.state, command, self.now)).state

    def carry_out(self) -> None:
        """All stages, and the check of the sum."""
        algorithm, draws = self.state.algorithm(Phase.ZEROTH_ORDER), np.random.default_rng(1)
        for name in self.names:
            work = work_for(self.state, name, self.now)
            assert work is not None
            probes, projections = algorithm.counts(Tier.LOW, EXAMPLES)
            values = [tuple(draws.normal(size=n).astype(np.float32).tolist()) for n in (probes, projections)]
            scalars, device = Scalars(work.round, values[0], values[1]), self.devices[name]
            begin = lambda: device.begin(work, algorithm, Tier.LOW, EXAMPLES, scalars)  # noqa: B023
            keys: Keys = self.costs.of_device(Stage.KEYS, begin)
            self.costs.up[Stage.KEYS].append(KEYS_BYTES)
            self.do(Stage.KEYS, cmd.Contribute(name, keys))
        gone = set[str]()
        for stage in list(Stage)[1:]:
            for place in self.leaving.get(stage, ()):
                gone.add(name := self.names[place])
                self.do(stage, cmd.DisconnectClient(name, self.state.presence[name].epoch))
            self.stage(stage, gone)
            self.now += 10.0
            self.do(stage, cmd.Tick())
        closed = self.state.current
        assert closed is not None and closed.closed, self.state.current
        expected = np.sum([self.given[name] for name in closed.contributors], axis=0, dtype=np.uint64)
        assert (sum_of(self.state, closed) == expected).all()
        assert len(closed.contributors) == len(self.names) - sum(
            len(self.leaving[s]) for s in (Stage.SHARES, Stage.MASKED)
        )
        self.costs.of_coordinator("the sum", lambda: mean_of(self.state, closed))

    def stage(self, stage: Stage, gone: set[str]) -> None:
        """Everybody who is there and is asked answers, as long as the stage lasts."""
        for name in self.names:
            current = self.state.current
            if name in gone or current is None or current.closed or current.stage is not stage:
                continue
            sent = self.costs.of_coordinator(stage, lambda: self.asked(name))  # noqa: B023
            ask = ask_from_wire(wire.MaskingAsk.FromString(sent))
            self.costs.down[stage].append(len(sent))
            if stage is Stage.MASKED:
                held = self.devices[name]._open
                assert held is not None
                self.given[name] = self.devices[name]._summand(held)
            step = self.costs.of_device(stage, lambda: self.devices[name].answer(ask))  # noqa: B023
            text = step_to_wire(step).SerializeToString()
            self.costs.up[stage].append(len(text))
            self.do(stage, cmd.TakeStep.of(name, step_from_wire(wire.MaskingStep.FromString(text))))

    def asked(self, name: str) -> bytes:
        ask = ask_for(self.state, name)
        assert ask is not None
        return ask_to_wire(ask).SerializeToString()

    def rows(self) -> list[str]:
        """A line for each stage, the sum, and all of it."""
        costs, lost = self.costs, sum(map(len, self.leaving.values()))
        found = [f"| {len(self.names):,} | {lost} |"]
        up = down = 0.0
        device_s = 0.0
        for stage in Stage:
            each_s = statistics.median(costs.device_s[stage])
            device_s, up = device_s + each_s, up + statistics.median(costs.up[stage])
            down += statistics.median(costs.down[stage] or [0])
            found.append(f"| {stage} | {each_s:.4f} | {costs.coordinator_s[stage]:.2f} |")
        found.append(f"| the sum | | {costs.coordinator_s['the sum']:.2f} |")
        coordinator_s = sum(seconds for what, seconds in costs.coordinator_s.items() if what)
        found[0] = f"| {len(self.names):,} | {lost} | {up:,.0f} | {down:,.0f} | {device_s:.3f} | {coordinator_s:.2f} |"
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 100, 1000], help="devices in a round")
    parser.add_argument("--lost", type=float, nargs="+", default=[0.0, 0.33], help="shares of them that drop out")
    parser.add_argument("--probes", type=int, default=32, help="of each device")
    parser.add_argument("--projections", type=int, default=64, help="of each device")
    arguments = parser.parse_args()
    for count in arguments.clients:
        for lost in arguments.lost:
            begun, made = time.perf_counter(), OneRound(count, lost, arguments.probes, arguments.projections)
            made.carry_out()
            print("| devices | lost | bytes up, each | bytes down, each | s a device | s of the coordinator |")
            print("| stage | s a device | s of the coordinator |")
            print(*made.rows(), sep="\n", flush=True)
            print(f"{time.perf_counter() - begun:.0f} s in all, the sum exact", flush=True)


if __name__ == "__main__":
    main()
