"""A file of weights to begin with (`model.weights`): safetensors, or a state dict that torch has saved (.pth, .pt).

What it holds beyond the model's tensors is left alone. The head may be of other classes than the run's, as in weights that
are published for ImageNet: then the initial one stays, and the run learns it.
"""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout, no_whitening
from zowarmup.common.system.files import open_given
from zowarmup.common.text import in_words, listed
from zowarmup.common.untrusted import require_ratio
from zowarmup.server.setup.prepare import PreparationError
from zowarmup.server.setup.safetensors_file import Unreadable, opened

if TYPE_CHECKING:
    from torch import Tensor

_SAVED_BY_TORCH = (".pth", ".pt")


def load_weights(path: Path, layout: Layout, weights: NDArray[np.float32]) -> str:
    """Fill a flat vector from a file with the layout's tensors.

    Args:
        path: The file.
        layout: Of the model.
        weights: Float32 (layout.size,), changed in place.

    Returns:
        A sentence where the head stays as it was, since the file's is of other classes; else nothing.

    Raises:
        PreparationError: The sentence names the file and the tensor.
    """
    saved = path.suffix in _SAVED_BY_TORCH
    head = (layout.head.weight_name, layout.head.bias_name) if layout.head else ()
    other_head = ""
    try:
        with _saved(path) if saved else _safetensors(path) as tensors:
            for name, view in layout.views(weights).items():
                shape = tensors.shape(name)
                if layout.whitening and name == layout.whitening.name:  # an exported head reads the features themselves
                    view[...] = no_whitening(len(view) - 2, view.shape[1])
                elif shape == view.shape:
                    view[...] = tensors.read(name)
                elif shape and name in head and shape[1:] == view.shape[1:]:
                    other_head = f"{path}: its head is of {shape[0]} classes: that of the run begins at random weights"
                else:
                    found = "missing" if shape is None else f"of shape {shape}"
                    raise PreparationError(
                        f"model.weights = {str(path)!r}: {name} must have shape {view.shape} and is {found}"
                    )
    except Unreadable as error:
        kind = "a state dict of torch" if saved else "safetensors"
        raise PreparationError(f"model.weights = {str(path)!r}: cannot be read as {kind}: {error}") from error
    return other_head


class _Tensors(Protocol):
    """The tensors of a file. `shape`: None where there is none of that name."""

    def shape(self, name: str) -> tuple[int, ...] | None: ...

    def read(self, name: str) -> NDArray[Any]: ...


class _Safetensors:
    def __init__(self, file: Any) -> None:
        self._file, self._names = file, set(file.keys())

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._file.get_slice(name).get_shape()) if name in self._names else None

    def read(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = self._file.get_tensor(name)
        return found


@contextmanager
def _safetensors(path: Path) -> Iterator[_Tensors]:
    with opened(path) as file:
        yield _Safetensors(file)


class _StateDict:
    def __init__(self, tensors: "dict[str, Tensor]") -> None:
        self._tensors = tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def read(self, name: str) -> NDArray[Any]:
        try:
            found: NDArray[Any] = self._tensors[name].detach().float().numpy()
        except (RuntimeError, TypeError) as error:  # one that is sparse, or quantized
            raise Unreadable(f"{name}: {in_words(error)}") from error
        return found


@contextmanager
def _saved(path: Path) -> Iterator[_Tensors]:
    """Of what is pickled, torch reads tensors and plain values alone, so nothing in the file is run. Raises Unreadable."""
    try:
        import torch
    except ModuleNotFoundError:
        raise Unreadable("that needs torch: pip install 'zowarmup[torch]', or write it as safetensors") from None
    try:
        with open_given(path) as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    announced = sum(member.file_size for member in archive.infolist())
                require_ratio(path.name, announced, os.fstat(file.fileno()).st_size, "save it again, by torch.save")
            file.seek(0)
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except Exception as error:  # torch's errors for this share no base
        raise Unreadable(in_words(error)) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        held = listed(map(str, found)) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise Unreadable(f"it holds {held}, and not tensors by name: write it by torch.save(model.state_dict(), PATH)")
    yield _StateDict(found)
