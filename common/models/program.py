"""The model's forward pass as the coordinator ships it: an ONNX graph whose weights are inputs.

The inputs are bound once to views of the flat weight vector, so the vector is the model: change it in place and the
next forward pass sees the change, with no copy. Where a graph lets each example have tensors of its own, as it does of low-rank adapters,
one pass can be made at several vectors. A program that is cut is two graphs (`halves`), which share the vector; its forward pass is one
after the other.

Memory, measured over batches of mixed sizes: ONNX Runtime's arena without its memory patterns peaks lowest and runs
fastest. Without the arena the C library's allocator is left with gaps of tens of megabytes; a pattern reserves the
activations in one piece, beside what the arena has already.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.base import Constant
from zowarmup.common.text import printable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, RunOptions, SessionOptions

# ONNX Runtime would write to standard error itself, with names from the program in it; an exception says the same.
_NOTHING_BUT_FATAL = 4
# Below a file that is no folder, no file can be found, by whatever name: `graph` refuses tensors that name one.
_NO_FOLDER = "/dev/null"
_BEYOND_ARENA = "smaller than requested bytes"  # how ONNX Runtime says it
# It would compute what does not depend on inputs when the graph is loaded, without a limit to memory or time. Of what the
# exporter writes nothing is so, since the weights are inputs.
_WITHOUT = ["ConstantFolding"]
LONGEST_CAUSE = 300


Crossing = tuple[NDArray[np.float32], ...]
"""What crosses the cut of a model that is cut."""


class ProgramFailed(Exception):
    """A forward pass cannot be made: the sentence says why."""


class ProgramMemory(ProgramFailed):
    """A forward pass needs more memory than `limit_memory` allows."""


class Halt:
    """Ends what another thread is at with a program, loading it or a forward pass, between two operators: it raises there."""

    def __init__(self) -> None:
        self.loading: SessionOptions | None = None
        self.running: RunOptions | None = None

    def stop(self) -> None:
        """Nothing happens where nothing is under way."""
        if (loading := self.loading) is not None:
            loading.set_load_cancellation_flag(True)
        if (running := self.running) is not None:
            running.terminate = True


class Program:
    """The forward pass over a flat vector of weights, which the caller keeps and may change between calls.

    The graph's inputs are "inputs", float32 (n, *shape) or tokens, int64 (n, t) or (n, choices, t), and every tensor of the layout and of the base by
    its name; its outputs "logits" and, where the layout has a head, "features"; and where it has a cut what crosses it
    (`graph.crossing_of`).

    Args:
        onnx: The graph.
        layout: Of the model.
        weights: Float32 (layout.size,), contiguous.
        threads: How many compute one pass.
        halt: Ends the loading of the graph, and passes, from another thread.
        constants: The tensors of the base, which are bound where they are; none: the model has no base.
        apart: Whether the memory that a pass took is given back as it ends, so that none fails for what another one took.

    Raises:
        ValueError: The graph is another, or does anything but that (`graph`); ONNX Runtime cannot load it, it is larger
            than half of what `limit_memory` allows; or `weights` are something else.
    """

    def __init__(
        self,
        onnx: bytes,
        layout: Layout,
        weights: NDArray[np.float32],
        threads: int = 1,
        halt: Halt | None = None,
        constants: Mapping[str, Constant] | None = None,
        apart: bool = False,
    ) -> None:
        from onnxruntime import OrtValue

        from zowarmup.common.models.graph import ELEMENT_OF, checked, crossing_of
        from zowarmup.common.models.halves import halves

        views, halt = layout.views(weights), halt or Halt()
        self._graph = checked(onnx, layout, constants)
        if (
            _limit_bytes and 2 * len(onnx) > _limit_bytes
        ):  # constants are taken beyond the limit, which then holds no longer
            raise ValueError(
                f"program: its {len(onnx)} bytes are more than half of the {_limit_bytes} that passes may take"
            )
        own = self._graph.own
        tensors = {
            name: OrtValue.ortvalue_from_numpy(view[np.newaxis] if name in own else view)
            for name, view in views.items()
        }
        self._own = {tensor: tensors[tensor.name] for tensor in layout.tensors if tensor.name in own}
        for name, constant in (constants or {}).items():
            tensors[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(constant.values, ELEMENT_OF[constant.kind])
        self._crossing = crossing_of(layout)
        parts = [self._graph.onnx] if layout.cut is None else halves(self._graph.onnx, layout)
        self._graphs = [_Graph(part, tensors, self._graph.outputs, threads, halt, apart) for part in parts]
        self._weights, self._constants = weights, constants  # bound by address

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of one example; None where an extent varies."""
        return self._graph.example

    @property
    def tokens(self) -> bool:
        """Whether an example is tokens."""
        return self._graph.tokens

    @property
    def outputs(self) -> int:
        """How many numbers it gives for an example."""
        return self._graph.outputs["logits"]

    @property
    def own(self) -> frozenset[str]:
        """The tensors of the layout of which each example of a pass may have its own (`forward_each`)."""
        return self._graph.own

    def load(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """What to move, to move the model from `weights` on: the vector itself, since it is bound. Raises ValueError
        for another one."""
        if weights is not self._weights:
            raise ValueError("program: it is bound to another vector of weights")
        return weights

    def forward(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Its outputs (n, outputs) and, where the layout has a head, the features (n, h), not yet whitened, for inputs
        (n, *shape) or (n, t). One thread at a time. Raises ProgramFailed."""
        if len(self._graphs) > 1:
            return self.upper(inputs, self.lower(inputs))
        logits, *features = self._graphs[0].run(self._checked(inputs), {})
        return logits, features[0] if features else None

    def forward_each(
        self, inputs: NDArray[Any], vectors: NDArray[np.float32], of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `forward`, in one pass at several vectors, which differ in no tensor but those of `own`.

        Args:
            inputs: As `forward` takes them, of n examples.
            vectors: Float32 (m, layout.size).
            of: For each example that of its vector, int64 (n,).

        Raises:
            ProgramFailed: The pass cannot be made.
        """
        theirs = {
            tensor.name: vectors[:, tensor.start : tensor.stop][of].reshape(len(of), *tensor.shape)
            for tensor in self._own
        }
        for graph in self._graphs:
            graph.give(theirs)
        try:
            return self.forward(inputs)
        finally:
            for graph in self._graphs:
                graph.bind({tensor.name: value for tensor, value in self._own.items()})

    def lower(self, inputs: NDArray[Any]) -> Crossing:
        """What crosses the cut: activations (n, t, hidden), of which those behind an example's tokens mean nothing, and where any do
        means (n, k). Raises ProgramFailed."""
        return tuple(self._graphs[0].run(self._checked(inputs), {}))

    def upper(self, inputs: NDArray[Any], crossing: Crossing) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `forward`, from what crosses the cut for these inputs. Raises ProgramFailed."""
        named = dict(zip(self._crossing, crossing, strict=True))
        logits, *features = self._graphs[1].run(self._checked(inputs), named)
        return logits, features[0] if features else None

    def _checked(self, inputs: NDArray[Any]) -> NDArray[Any]:
        dtype = np.int64 if self.tokens else np.float32
        fits = len(inputs.shape) == 1 + len(self.shape) and all(
            wanted in (None, extent) for wanted, extent in zip(self.shape, inputs.shape[1:], strict=True)
        )
        if inputs.dtype != dtype or not fits or not inputs.size:
            wanted = "tokens, int64 (n, t)" if self.tokens and len(self.shape) == 1 else f"float32 (n, *{self.shape})"
            raise ValueError(f"inputs are {inputs.dtype} {inputs.shape}: the model takes {wanted}")
        return np.ascontiguousarray(inputs)


class _Graph:
    """A graph that is loaded, with the weights that it reads.

    Args:
        onnx: It.
        tensors: Of the model, by name.
        widths: By name, how many numbers each output has on its last axis.
        threads: As of `Program`.
        halt: As of `Program`.
        apart: As of `Program`.

    Raises:
        ValueError: ONNX Runtime cannot load it.
    """

    def __init__(
        self,
        onnx: bytes,
        tensors: "Mapping[str, OrtValue]",
        widths: Mapping[str, int],
        threads: int,
        halt: Halt,
        apart: bool = False,
    ) -> None:
        import onnxruntime

        self._session, self._halt = _session(onnx, threads, halt), halt
        self._options = onnxruntime.RunOptions()
        if apart:
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._binding = self._session.io_binding()
        self._reads = {value.name for value in self._session.get_inputs()}
        self._widths = {value.name: (len(value.shape), widths[value.name]) for value in self._session.get_outputs()}
        self.bind(tensors)

    def bind(self, tensors: "Mapping[str, OrtValue]") -> None:
        """Read these from now on, where it reads them at all."""
        for name in self._reads & tensors.keys():
            self._binding.bind_ortvalue_input(name, tensors[name])

    def give(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Read these from now on, where it reads them at all: contiguous arrays that are kept until it has run."""
        for name in self._reads & tensors.keys():
            self._binding.bind_cpu_input(name, tensors[name])

    def run(self, inputs: NDArray[Any], others: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Its outputs for inputs, and for others by name. Raises ProgramFailed."""
        given = {name: np.ascontiguousarray(values) for name, values in {"inputs": inputs, **others}.items()}
        self.give(given)
        for name in self._widths:
            self._binding.bind_output(name, "cpu")
        self._options.terminate = False
        self._halt.running = self._options
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's own errors share no base but this
            if _BEYOND_ARENA in str(error):
                raise ProgramMemory("a forward pass needs more memory than there is for it") from None
            raise ProgramFailed(f"a forward pass fails: {printable(str(error), LONGEST_CAUSE)}") from None
        finally:
            self._halt.running = None
        self._require_outputs(inputs.shape[:2])
        outputs: list[NDArray[np.float32]] = self._binding.copy_outputs_to_cpu()
        return outputs

    def _require_outputs(self, batch: tuple[int, ...]) -> None:
        """That they have the declared shape: a graph's declaration binds nobody, and what comes after copies them."""
        for value, (name, (axes, width)) in zip(self._binding.get_outputs(), self._widths.items(), strict=True):
            wanted = [*batch[: axes - 1], width]
            if value.shape() != wanted:
                raise ProgramFailed(f"a forward pass gives {name} of shape {value.shape()}, and should of {wanted}")


def limit_memory(most_bytes: int) -> None:
    """Let the forward passes of this process take at most so much memory, together. To be called before the first program
    is made; what is asked for later has no effect."""
    global _limit_bytes
    if _limit_bytes:
        return
    import onnxruntime

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    usual = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg({"max_mem": most_bytes, **usual}))
    _limit_bytes = most_bytes


_limit_bytes = 0


def _session(onnx: bytes, threads: int, halt: Halt) -> "InferenceSession":
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # what a device computes is nobody's but the run's
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.log_severity_level = _NOTHING_BUT_FATAL
    # Threads that wait must not burn the power of a device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if _limit_bytes:
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    halt.loading = options
    try:
        # Without its second try, which would do what is left out here, and print what the first one has failed at.
        return onnxruntime.InferenceSession(
            onnx, options, providers=["CPUExecutionProvider"], disabled_optimizers=_WITHOUT, enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own errors share no base but this
        raise ValueError(f"program: ONNX Runtime cannot load it: {printable(str(error), LONGEST_CAUSE)}") from error
    finally:
        halt.loading = None
