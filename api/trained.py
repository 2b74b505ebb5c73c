"""A run read from its data directory: its history, what it cost, and the weights of any version that can be computed.

Weights are computed anew from the nearest snapshot and the commits since, by the arithmetic that every replica uses, and
have the digest that the run's log says, or are refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.api.errors import RunError, sentences
from zowarmup.api.figure import RunCurve, draw
from zowarmup.api.history import Costs, HistoryTable, PayloadRow, VersionRow
from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import RunFile
from zowarmup.common.tasks.protocol import Metric
from zowarmup.data import Dataset

if TYPE_CHECKING:
    from torch import nn

    from zowarmup.server.core.events import TrafficCount
    from zowarmup.server.store.archive import Archive


class GivenUp(RunError):
    """A run has ended before its time, or has paused itself.

    Args:
        reason: Why, as the coordinator says it.
        run: It, as far as it came.
    """

    def __init__(self, reason: str, run: "TrainedRun") -> None:
        super().__init__(reason)
        self.run = run


class TrainedRun:
    """A run as far as it has come, from its data directory.

    Args:
        data_dir: The directory.
        kept: What has to be there as long as this is, such as what removes the directory when nobody needs it any more.

    Raises:
        RunError: It holds no run that can be read.
    """

    def __init__(self, data_dir: Path, kept: object = None) -> None:
        from zowarmup.lab.experiments.outcome import outcome_of
        from zowarmup.server.stored.opening import archive_of, events_of_run

        self.data_dir, self._kept = data_dir, kept
        with sentences():
            self._archive: Archive = archive_of(data_dir)
            outcome = outcome_of(events_of_run(data_dir))
        state, history = self._archive.state, self._archive.history
        contributions = sum(record.contributions for record in history.versions.values())
        self.history = HistoryTable(_rows(self._archive), state.program.metrics)
        self.costs = Costs(
            tuple(
                PayloadRow(c.direction, Tier(c.tier), Phase(c.phase), c.kind, c.payload_bytes, c.messages)
                for c in history.traffic.latest
                if c.tier
            ),
            outcome.client_forwards,
            model_bytes(state.layout.size) * contributions,
        )

    @property
    def name(self) -> str:
        return self._archive.name

    @property
    def settings(self) -> RunFile:
        """What the run was made of."""
        return self._archive.state.run_file

    @property
    def version(self) -> int:
        """The last one."""
        return self._archive.state.version

    @property
    def digest(self) -> str:
        """Of the last version's weights, hex: equal on the coordinator and every client, and wherever the run was made."""
        return self._archive.state.digest

    @property
    def phase(self) -> Phase:
        return self._archive.state.phase

    @property
    def pivot_version(self) -> int | None:
        """Where the warm-up ended; None where it has not."""
        return self._archive.state.pivot_version

    @property
    def gave_up(self) -> str:
        """Why the run ended before its time, or paused itself; empty where it did not."""
        return self._archive.state.gave_up or (self._archive.state.paused if self._archive.state.paused_itself else "")

    @property
    def metric(self) -> Metric:
        """The primary one of the task."""
        return self._archive.state.program.metric

    @property
    def value(self) -> float:
        """The primary metric of the newest version that was evaluated; NaN before there is one."""
        rows = self.history.evaluated
        return rows[-1].metrics[self.metric.name] if rows else math.nan

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels stand for, by label; empty where they are numbers alone."""
        return self._archive.state.program.card.class_names

    @property
    def versions(self) -> list[int]:
        """Those whose weights can be computed, ascending."""
        return self._archive.versions()

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The tensors of the last version, by the names that they have in a torch module of the model."""
        return self.weights_at(self.version)

    def weights_at(self, version: int) -> dict[str, NDArray[np.float32]]:
        """The tensors of a version, by the names that they have in a torch module of the model.

        Args:
            version: One of `versions`.

        Returns:
            Arrays in the tensors' shapes, float32.

        Raises:
            RunError: That version is not kept, or its files are damaged.
        """
        from zowarmup.server.setup.stored_version import constants_in, module_tensors, weights_of

        if version not in (kept := self.versions):
            raise RunError(f"version {version} is not kept; {len(kept)} are, from {kept[0]} to {kept[-1]} (`versions`)")
        with sentences():
            vector, _ = weights_of(self._archive, self.data_dir, version)
            tensors = module_tensors(self._archive, vector, constants_in(self._archive))
        return {name: np.array(values, np.float32) for name, values in tensors.items()}

    def inputs(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Examples as the model reads them: divided by the run's scale, without its mean, divided by its deviation.

        Args:
            values: As they are stored, (n, *shape), channels first.

        Returns:
            Float32 of that shape.
        """
        card = self._archive.state.program.card
        stored = values if values.dtype == np.uint8 else values.astype(np.float32)
        kept = card.scale, card.mean, card.deviation
        none = np.zeros((len(stored), 1), np.float32)
        found: NDArray[np.float32] = (
            Dataset(stored, none, 0, *kept, axes=card.axes).batch(np.arange(len(stored))).inputs
        )
        return found

    def load_into(self, module: "nn.Module", version: int | None = None) -> None:
        """Give a torch module of the model the weights of a version.

        Args:
            module: As the run's model was built.
            version: One of `versions`; None: the last one.

        Raises:
            RunError: It has other tensors than the model.
        """
        import torch

        wanted = self.version if version is None else version
        weights = self.weights if wanted == self.version else self.weights_at(wanted)
        own = module.state_dict()
        known = {name: tuple(tensor.shape) for name, tensor in own.items() if tensor.is_floating_point()}
        model = {name: values.shape for name, values in weights.items()}
        if unlike := sorted({name for name, _ in known.items() ^ model.items()}):
            raise RunError(
                f"the module is not one of the run's model {self.settings.model.name}: they differ in {unlike[0]}"
            )
        module.load_state_dict(
            {name: torch.from_numpy(values.copy()) for name, values in weights.items()}, strict=False
        )

    def plot(self, path: "Path | str | None" = None) -> Any:
        """A figure of the run: the primary metric and what was uploaded, over the versions.

        Args:
            path: Where it is written, in the form that the name ends in, such as .png or .svg; None: nowhere.

        Returns:
            The figure of matplotlib's, which notebooks show.
        """
        return plot([self], path)

    def __repr__(self) -> str:
        value = "" if math.isnan(self.value) else f", {self.metric.title} {self.metric.shown(self.value)}"
        return f"<run {self.name}: {self.phase}, version {self.version}{value}, digest {self.digest[:8]}>"


def load_run(data_dir: Path | str) -> TrainedRun:
    """Read a run from a coordinator's data directory, while it goes on or afterwards.

    Args:
        data_dir: As `zowarmup-server --data-dir` was given it.

    Returns:
        The run as far as it has come.

    Raises:
        RunError: It holds no run that can be read.

    Example:
        >>> import zowarmup as zw
        >>> run = zw.load_run("run")
        >>> run.version, run.weights_at(2)["3.bias"].shape
        (6, (10,))
    """
    return TrainedRun(Path(data_dir).expanduser())


def plot(runs: Mapping[str, TrainedRun] | Sequence[TrainedRun], path: Path | str | None = None) -> Any:
    """Draw runs beside each other: the primary metric over the versions, and over what all clients had uploaded.

    Args:
        runs: By what each is called in the figure; or several, which are called by their names.
        path: Where it is written, in the form that the name ends in, such as .png or .svg; None: nowhere.

    Returns:
        The figure of matplotlib's, which notebooks show.

    Raises:
        SettingsError: There is none to draw, or their metrics differ.
        RunError: matplotlib is missing, or the file cannot be written.

    Example:
        >>> import zowarmup as zw
        >>> runs = {"ours": zw.load_run("run"), "theirs": zw.load_run("run")}
        >>> figure = zw.plot(runs, "both.png")
    """
    named = runs.items() if isinstance(runs, Mapping) else [(run.name, run) for run in runs]
    return draw([RunCurve(name, run.history.evaluated, run.pivot_version) for name, run in named], path)


def _rows(archive: "Archive") -> Iterator[VersionRow]:
    versions = archive.history.versions
    began = versions[min(versions)].committed_at
    for version, record in sorted(versions.items()):
        traffic, found = archive.history.traffic.at(version), record.evaluation
        yield VersionRow(
            version=version,
            phase=record.phase,
            round=record.round,
            contributions=record.contributions,
            loss=found.loss if found else None,
            metrics=dict(found.metrics) if found else {},
            up_bytes=_moved(traffic, "up"),
            down_bytes=_moved(traffic, "down"),
            seconds=round(record.committed_at - began, 3),
            digest=record.digest,
        )


def _moved(traffic: "Iterable[TrafficCount]", direction: str) -> int:
    return sum(count.payload_bytes for count in traffic if count.direction == direction and count.tier)
