"""A version of a run on disk, as tensors by name: those that a torch module of the model has, and those that its graph reads."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.whitening import folded
from zowarmup.common.exact.grid import Grid
from zowarmup.common.models.base import BaseError, Constant, read_base
from zowarmup.common.models.narrow import widened
from zowarmup.server.store.archive import Archive, ArchiveError


def weights_of(archive: Archive, data_dir: Path, version: int) -> tuple[NDArray[np.float32], Grid]:
    """The flat vector of a version, float32 (layout.size,), computed anew from the nearest snapshot, and its grid.

    Args:
        archive: The run.
        data_dir: Where it is, for sentences.
        version: One of `archive.versions()`.

    Raises:
        ArchiveError: It cannot be computed, or does not have the digest that the run's log says.
    """
    weights, grid = archive.weights(version)
    found = archive.layout.digest(weights).hex()
    if found != archive.digest(version):
        raise ArchiveError(
            f"version {version} in {data_dir} has digest {found}, the run has {archive.digest(version)}: "
            "its files are damaged; restore them from a backup or export another version"
        )
    return weights, grid


def constants_in(archive: Archive) -> dict[str, Constant]:
    """The tensors of a run's base; none where it has no base. Raises ArchiveError."""
    try:
        return {} if archive.base is None else read_base(archive.base)
    except (BaseError, OSError) as error:
        raise ArchiveError(f"{archive.base} cannot be read ({error}): restore it from a backup") from error


def module_tensors(
    archive: Archive, weights: NDArray[np.float32], constants: dict[str, Constant]
) -> dict[str, NDArray[Any]]:
    """The tensors of a torch module of the model, by the names of its state dict: the module knows no whitening, so its head
    has that folded in, and its constants are float32."""
    layout = archive.layout
    tensors: dict[str, NDArray[Any]] = dict(layout.views(folded(weights, layout)))
    if layout.whitening is not None:
        del tensors[layout.whitening.name]
    return tensors | widened(constants)
