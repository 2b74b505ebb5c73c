"""Continuation from the weights of another run: at which learning rate.

A run anneals its zeroth-order rate to near zero, so weights that it has finished with lie in a minimum that is narrow beside
the steps of a fresh run: begun at the rate of the first one, the next loses ten points of accuracy before it gains any
(docs/method.md). `zowarmup export` therefore notes in the safetensors file how the weights were left, and the run that
begins with them (`model.weights`) advises a rate, or takes it where the run file says `rate = "continue"`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zowarmup.common.settings.run import RunFile
from zowarmup.server.setup.safetensors_file import Unreadable, opened

if TYPE_CHECKING:  # else whoever reads a run file would load all that reads a ledger
    from zowarmup.server.store.archive import Archive

CONTINUE = "continue"
LEAST_SHARE = 0.1
"""A continued run begins with no less than this share of the rate that the first one began with: with less, nothing is
learnt from data that have changed."""
FAR_ABOVE = 2.0
"""So many times the advised rate are worth a warning."""
_KEY = "zeroth_order"


class ContinuationError(Exception):
    """The rate cannot be carried on; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Left:
    """How a run's zeroth-order rate was when it left some weights: `rate` at the beginning of its annealing, `annealed`
    at those weights, after so many rounds; both with what the guard took off."""

    rate: float
    annealed: float
    rounds_done: int
    step: str

    @classmethod
    def by(cls, archive: "Archive", version: int) -> Self:
        """At a version of a run."""
        spec, pivot = archive.state.run_file.zeroth_order, archive.state.pivot_version
        made = [known for number, known in archive.history.versions.items() if 0 < number <= version]
        done = sum(known.round > 0 and pivot is not None and known.version > pivot for known in made)
        rate = spec.rate * archive.state.progress.factor_after(sum(known.round == 0 for known in made))
        return cls(rate, spec.annealed(rate, done), done, spec.step)

    @property
    def advised(self) -> float:
        """The rate to go on with."""
        return max(self.annealed, LEAST_SHARE * self.rate)

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it."""
        return {
            f"{_KEY}.rate": f"{self.rate:.6g}",
            f"{_KEY}.rate_annealed": f"{self.annealed:.6g}",
            f"{_KEY}.rounds_done": str(self.rounds_done),
            f"{_KEY}.step": self.step,
        }

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """From a safetensors file; None where it says nothing. Raises ContinuationError where it cannot be read."""
        try:
            with opened(path) as tensors:
                found: Mapping[str, str] = tensors.metadata() or {}
            values = (found[f"{_KEY}.{name}"] for name in ("rate", "rate_annealed", "rounds_done", "step"))
            rate, annealed, done, step = values
            return cls(float(rate), float(annealed), int(done), step)
        except (KeyError, ValueError):
            return None
        except Unreadable as error:
            raise ContinuationError(f"model.weights = {str(path)!r}: cannot be read as safetensors: {error}") from error


def carried_on(raw: dict[str, Any]) -> dict[str, Any]:
    """A run file, as TOML is read, with the rate in the place of "continue". Raises ContinuationError."""
    phase, model = raw.get("zeroth_order"), raw.get("model")
    if not isinstance(phase, dict) or phase.get("rate") != CONTINUE:
        return raw
    weights = model.get("weights") if isinstance(model, dict) else None
    said = 'zeroth_order.rate = "continue"'
    if not isinstance(weights, str) or not weights:
        raise ContinuationError(f"{said}: there is nothing to continue from: give model.weights, or a number")
    left = Left.read(Path(weights))
    if left is None:
        raise ContinuationError(
            f"{said}: {weights} does not say at which rate it was left, as `zowarmup export` does: give a number"
        )
    step = phase.get("step", "normalized")
    if left.step != step:
        raise ContinuationError(
            f"{said}: {weights} was trained with step = {left.step!r}, this run has {step!r}, whose rates are others: give "
            "a number"
        )
    return {**raw, "zeroth_order": {**phase, "rate": left.advised}}


def advice(run_file: RunFile) -> str:
    """Where the run begins with weights that were left at a much lower rate than it begins with: that, as a sentence;
    else empty."""
    phase, weights = run_file.zeroth_order, run_file.model.weights
    if not weights or not phase.rounds or run_file.warmup.rounds:
        return ""
    try:
        left = Left.read(Path(weights))
    except ContinuationError:
        return ""
    if left is None or left.step != phase.step or phase.rate <= FAR_ABOVE * left.advised:
        return ""
    return (
        f"{weights} was left at a learning rate of {left.annealed:.2g}, annealed from {left.rate:g}; zeroth_order.rate = "
        f'{phase.rate:g} is far above it and will undo some of the training first: rate = "continue" begins with '
        f"{left.advised:.2g}"
    )
