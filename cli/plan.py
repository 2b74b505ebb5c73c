"""`zowarmup plan`: the cost of a run file, before anything is rolled out.

The model is built, exported and measured as a coordinator would when it makes the run, in the same child processes, and
thrown away; then `forecast` counts. Nothing is listened on and nothing is kept.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zowarmup.cli.failure import CommandError, Usage
from zowarmup.cli.forecast import Bytes, Fleet, Forecast, PlannedLink, forecast
from zowarmup.cli.sample_messages import Specimens
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.addresses import is_loopback
from zowarmup.common.settings.run import ClientSpec, RunFile
from zowarmup.data import DataError, load
from zowarmup.data.card import card_of
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.projections.framing import Wire
from zowarmup.server.setup.prepare import Children, PreparationError, Prepared, prepare, task_of
from zowarmup.server.setup.run_file import RunFileError, read_run_file

_RATES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
GROWTH = 16.0
"""Headroom of the grid at the pivot, over the first weights: a warm-up about doubles the largest."""
CERTIFICATE_BYTES = 600
"""What `zowarmup certs` makes has about so many."""


@dataclass(frozen=True)
class Plan:
    """A run file, measured and reckoned. `examples`: how many each client holds."""

    run: RunFile
    spec: ClientSpec
    prepared: Prepared
    examples: int
    link: PlannedLink
    tls: bool
    forecast: Forecast

    def memory_bytes(self, tier: Tier) -> int:
        """The peak of a client of that tier in this run: one that never trains never loads torch."""
        trains = tier is Tier.HIGH and any(phase.back_propagates(tier) for phase in self.spec.phases)
        return (self.prepared.high if trains else self.prepared.low).peak_bytes

    @property
    def weights_bytes(self) -> int:
        return 4 * self.prepared.layout.size

    def to_json(self) -> dict[str, Any]:
        """Everything, with the units in the names."""
        found, fleet = self.forecast, self.forecast.fleet
        return {
            "run": self.run.name,
            "model": self.run.model.name,
            "parameters": self.prepared.layout.trainable,
            "weights_bytes": self.weights_bytes,
            "program_bytes": len(self.prepared.program),
            "assumed": {
                "high": fleet.high,
                "low": fleet.low,
                "examples": self.examples,
                "up_bits_per_second": self.link.up_bps,
                "down_bits_per_second": self.link.down_bps,
                "speed": self.link.speed,
                "tls": self.tls,
            },
            "memory_bytes": {tier.value: self.memory_bytes(tier) for tier in fleet.tiers},
            "participants": _by(found.participants),
            "round_s": _by(found.round_s),
            "fedavg_round_s": found.fedavg_round_s,
            "run_s": found.run_s,
            "a_round": _rows(found.a_round),
            "traffic": _rows(found.traffic),
            "fedavg": _rows(found.fedavg),
        }


def make_plan(path: Path, high: int | None, low: int | None, examples: int, link: PlannedLink) -> Plan:
    """Plan the run of a file for a fleet; None: as many as a round asks for. Raises CommandError, and Usage where no round
    would ever open."""
    try:
        run = read_run_file(path)
        held_out = load(run.evaluation.data)
        card = card_of(held_out, f"evaluation.data = {run.evaluation.data!r}")
    except RunFileError as error:
        raise Usage(str(error)) from error
    except DataError as error:
        raise CommandError(f"evaluation.data = {run.evaluation.data!r}: {error}") from error
    fleet = fleet_for(run, high, low)
    spec = ClientSpec(
        model=run.model,
        card=card,
        warmup=run.warmup,
        zeroth_order=run.zeroth_order,
        pool_seed=pool_seed(run.seed),
    )
    try:
        task_of(spec, held_out.targets)
        with tempfile.TemporaryDirectory(prefix="zowarmup-plan-") as folder:
            prepared = prepare(spec, run.seed, Path(folder), Children(), examples)
    except PreparationError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(
            f"the model cannot be built in a temporary folder ({error.strerror or error}): free space, or name a folder "
            "with room in the environment variable TMPDIR"
        ) from error
    invited = run.server.enrolment == "invited" or (not run.server.enrolment and not is_loopback(run.server.address))
    grid = Grid.choose(
        prepared.weights[: prepared.layout.trainable],
        GROWTH if run.warmup.rounds else 8.0,
        prepared.layout.edges,
    )
    specimens = Specimens(run, spec, prepared.layout, prepared.weights, grid, prepared.program, examples, invited)
    tls = bool(run.server.tls_certificate)
    wire = Wire(True, CERTIFICATE_BYTES) if tls else Wire()
    work = {Tier.HIGH: prepared.high, Tier.LOW: prepared.low}
    return Plan(run, spec, prepared, examples, link, tls, forecast(specimens, fleet, wire, link, work))


def fleet_for(run: RunFile, high: int | None, low: int | None) -> Fleet:
    """The fleet asked for, checked against the run file. Raises Usage."""
    warm, zeroth = run.warmup, run.zeroth_order
    low_trains = warm.trains(Tier.LOW)
    if high is None:
        high = warm.clients_per_round if warm.rounds else 0
    if low is None:
        asked = [rules.clients_per_round for rules, open_to in ((warm, low_trains), (zeroth, zeroth.rounds)) if open_to]
        low = max(0, max(asked, default=0) - high)
    fleet = Fleet(high, low)
    both = "--high and --low"
    for name, rules, have, option in (
        ("warmup", warm, fleet.size if low_trains else fleet.high, both if low_trains else "--high"),
        ("zeroth_order", zeroth, fleet.size, both),
    ):
        needed = rules.minimum_clients or rules.clients_per_round
        if rules.rounds and have < needed:
            raise Usage(
                f"{option}: a round of [{name}] opens with {needed} clients and there would be {have}: "
                f"give more, or lower {name}.minimum_clients"
            )
    if not fleet.size:
        raise Usage("--high and --low: there are no clients; and the run file has no rounds")
    return fleet


def bits_per_second(option: str, text: str) -> float:
    """10Mbit, 250kbit, 1.5Gbit. Raises Usage."""
    matched = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([kMG]?)bit(?:/s|ps)?", text)
    if not matched or not float(matched[1]):
        raise Usage(f"{option} {text!r}: must be bits a second, such as 250kbit, 10Mbit or 1.5Gbit")
    return float(matched[1]) * _RATES[matched[2]]


def _by(values: Any) -> dict[str, dict[str, float]]:
    return {
        phase.value: {tier.value: value for (of, tier), value in values.items() if of is phase}
        for phase in Phase
        if any(of is phase for of, _ in values)
    }


def _rows(counts: Bytes) -> list[dict[str, Any]]:
    return [
        {
            "direction": row.direction,
            "tier": row.tier.value if row.tier else "none",
            "phase": row.phase.value,
            "kind": row.kind,
            "payload_bytes": round(cost.payload_bytes),
            "wire_bytes": round(cost.wire_bytes),
        }
        for row, cost in sorted(counts.rows.items(), key=lambda item: tuple(map(str, item[0])))
    ]
