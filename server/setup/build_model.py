"""A child process of the preparation: builds the model, lays it out and exports it.

`python -m zowarmup.server.setup.build_model SEED FOLDER` reads FOLDER/spec.json and writes the layout, the ONNX program and the
initial weights beside it. A failure is one sentence, left in a file as `common.models.apart` says.
"""

import logging
import signal
import sys
from pathlib import Path

from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.models.apart import carry_out, end
from zowarmup.common.plugin import ANY
from zowarmup.common.settings.run import BASES, PRETRAINED, ClientSpec
from zowarmup.common.system.files import replacing
from zowarmup.common.system.garbage import uncollected
from zowarmup.server.setup.language_directory import load_body, load_output
from zowarmup.server.setup.prepare import (
    BASE,
    BUILT,
    LAYOUT,
    PROGRAM,
    SPEC,
    WEIGHTS,
    PreparationError,
    Prepared,
    prepared_in,
)
from zowarmup.server.setup.verbalizers import load_verbalizers
from zowarmup.server.setup.weights_file import load_weights

log = logging.getLogger(__name__)


def build_run(spec: ClientSpec, seed: int, folder: Path) -> str:
    """Build the model of a run and leave its files in `folder`.

    Returns:
        What the operator should know of the weights that the run begins with, as a sentence, or nothing.

    Raises:
        ValueError, PreparationError: It cannot be made; the sentence says why.
        ImportError: torch or onnx is missing.
    """
    with uncollected():
        from zowarmup.common.models.base import Constant, write_base
        from zowarmup.common.models.construction import build, foreign_code
        from zowarmup.common.models.description import constants_of, describe, flatten, load_constants
        from zowarmup.common.models.export import export_program
        from zowarmup.common.models.initial_prefixes import begin_with_tokens, drawn_tokens
        from zowarmup.common.models.narrow import narrowed

    task = spec.task
    pretrained = spec.model.pretrained
    phase = spec.zeroth_order
    module = build(spec.model, spec.input_shape, task.outputs, seed, task.logits, language=spec.language)
    if pretrained:
        directory = Path(spec.model.name.removeprefix(PRETRAINED)).expanduser()
        load_body(module.get_submodule("body"), directory)
        if (language := spec.language) is not None and language.completes:
            load_output(module, directory)
        if language is not None and language.prefix:
            made = language.architecture
            begin_with_tokens(module.get_submodule("body"), made, drawn_tokens(made, language.prefix, seed))
        if spec.text.verbalizers:
            load_verbalizers(module, directory, spec.text, spec.card)
    with foreign_code(f"model {spec.model.name}:"):
        shape, head = spec.input_shape, spec.exact_head
        layout = describe(module, shape, head, phase.moved, spec.whitening, pretrained, phase.only_above)
        weights = flatten(module, layout)
    remark = ""
    if spec.model.weights:
        remark = load_weights(Path(spec.model.weights), layout, weights)
    try:
        Grid.choose(weights[: layout.trainable], edges=layout.edges)
    except HeadroomExceeded as error:
        whose = f"model.weights = {spec.model.weights!r}" if spec.model.weights else f"model {spec.model.name}"
        raise PreparationError(f"{whose}: {error}: begin with smaller ones") from error
    base: dict[str, Constant] | None = None
    if constants := {name: tensor.detach().numpy() for name, tensor in constants_of(module).items()}:
        base = narrowed(constants, spec.model.base)
        if spec.model.base != BASES[0]:
            load_constants(module, base)  # as they are for everybody
        write_base(folder / BASE, {name: constant.values for name, constant in base.items()})
    # In this order: somebody waits for the layout, who reads the weights and the base then, and for the program.
    (folder / WEIGHTS).write_bytes(weights.astype("<f4").tobytes())
    with replacing(folder / LAYOUT) as partial:
        partial.write_text(layout.to_json(), encoding="utf-8")
    with foreign_code(f"model {spec.model.name}:"):
        program = export_program(module, layout, spec.input_shape, base)
    with replacing(folder / PROGRAM) as partial:
        partial.write_bytes(program)
    return remark


def prepare_here(spec: ClientSpec, seed: int, folder: Path) -> Prepared:
    """Build the model of a run in this process, which has torch from then on, and measure nothing. Raises PreparationError."""
    try:
        remark = _built(spec, seed, folder)
    except ValueError as error:
        raise PreparationError(str(error)) from error
    if remark:
        log.warning("%s", remark)
    return prepared_in(folder)


def _built(spec: ClientSpec, seed: int, folder: Path) -> str:
    """As `build_run`. Raises ValueError also where a package is missing."""
    try:
        return build_run(spec, seed, folder)
    except ModuleNotFoundError as error:
        raise PreparationError(f"preparing a model needs {error.name}: pip install 'zowarmup[server,torch]'") from None


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear, which then ends this process
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    spec = ClientSpec.from_json((folder / SPEC).read_text(), ANY)
    return carry_out(folder / BUILT, spec.model.name, lambda: _built(spec, seed, folder))


if __name__ == "__main__":
    end(main())
