"""Construction of a model by name, and the refusal of one that could not be trained here.

What would let two replicas, or two evaluations of one replica, disagree is refused with a sentence: logits that differ
between two passes over the same input, or that depend on the other examples of the batch. So are probabilities: they
lie in [0, 1] whatever the weights are. Logits may by chance at the initial weights, but not at others, so the weights
are changed, by more each time, until an output leaves that range. For logits the first look is enough.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from zowarmup.common.models.architectures import (
    CNN_FILTERS,
    MLP_WIDTH,
    RESNET_GROUPS,
    RESNET_WIDTHS,
    Cnn,
    Cnn1d,
    ResNet,
    ViT,
    mlp,
)
from zowarmup.common.models.language.model import language_model
from zowarmup.common.models.torchvision_classifiers import PREFIX, Unsuitable, classifier
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import PRETRAINED, Model
from zowarmup.common.text import in_words


class ModelError(ValueError):
    """A model that cannot be trained here, said in one sentence that names it and the remedy."""


@contextmanager
def foreign_code(what: str) -> Iterator[None]:
    """A model's own code runs inside: whatever it raises, sys.exit included, becomes a ModelError that begins with
    `what` and names the file and the line; so does a ModelError that does not name the model."""
    try:
        yield
    except ModelError as error:
        if str(error).startswith("model "):
            raise
        raise ModelError(f"{what} {error}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} {in_words(error)}") from error


Factory = Callable[..., nn.Module]
"""Of the shape of an example and the number of outputs."""
_BUILT_IN: dict[str, Factory] = {"mlp": mlp, "cnn": Cnn, "cnn1d": Cnn1d, "vit": ViT}

_PROBE = 3  # examples in the batch that a model is tried on
_LEAST_LENGTH = 4  # of a sequence, for a convolution along it
_TOLERANCE = 1e-3  # relative to the largest logit; rounding moves them by about 1e-6


def build(
    model: Model,
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    logits: bool = True,
    half_width: bool = False,
    language: Language | None = None,
) -> nn.Module:
    """The named model for inputs (n, *input_shape) and outputs (n, outputs), in eval mode, with initial weights drawn from
    `seed`. torch's global generator is left as it was.

    Args:
        model: Its name, and how it normalises.
        input_shape: Of one example.
        outputs: How many numbers an example gets.
        seed: Of the initial weights.
        logits: Whether these must be logits (`check`).
        half_width: Its half-width part, as a model like any other.
        language: What is built of a language model, where it is one.

    Raises:
        ModelError: It cannot be trained here.
    """
    factory = _half_width_factory(model) if half_width else _factory(model, language)
    _check_shape(model.name, input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module(model.name, factory(input_shape, outputs))
        module.eval()
        check(model.name, module, input_shape, outputs, logits)
    return module


def check(name: str, module: nn.Module, input_shape: tuple[int, ...], outputs: int, logits: bool = True) -> None:
    """Refuse a module that cannot be trained here.

    Args:
        name: What to call the model in a sentence.
        module: In eval mode.
        input_shape: Of one example, without the batch's axis.
        outputs: How many numbers it gives for an example.
        logits: Whether these must be logits (`require_logits`).

    Raises:
        ModelError: It does not give finite float32 outputs (n, outputs) that are the same each time and depend on no
            other example; they cannot be logits where they must; or its parameters are not float32 on the CPU.
    """
    _check_parameters(name, module)
    inputs = sample(module, input_shape, _PROBE)
    accepts = f"model {name} does not accept inputs of shape {input_shape}:"
    with torch.no_grad():
        with foreign_code(accepts):
            found = module(inputs)
        if not isinstance(found, torch.Tensor) or found.shape != (_PROBE, outputs) or found.dtype != torch.float32:
            tensor = isinstance(found, torch.Tensor)
            kind = f"{found.dtype} {tuple(found.shape)}" if tensor else f"a {type(found).__name__}"
            wanted = (
                f"it must be {'' if tensor else 'one tensor, '}float32 (n, {outputs}){', the logits' if logits else ''}"
            )
            raise ModelError(f"model {name} gives {kind} for {_PROBE} examples: {wanted}")
        if not torch.isfinite(found).all():
            raise ModelError(f"model {name} gives logits that are not finite at its initial weights")
        with foreign_code(f"{accepts} the second time"):
            again = module(inputs)
        if not torch.equal(found, again):
            raise ModelError(f"model {name} gives other logits the second time: dropout must be off in eval mode")
        with foreign_code(f"model {name} accepts {_PROBE} examples at once and not {_PROBE - 1}:"):
            fewer = module(inputs[:-1])
        if fewer.shape != (_PROBE - 1, outputs) or (fewer - found[:-1]).abs().max() > _TOLERANCE * (
            1e-3 + found.abs().max()
        ):
            raise ModelError(
                f"model {name} gives an example other logits in other company: normalise over the example, or with "
                "running statistics, not over the batch"
            )
        if logits:
            require_logits(name, module, inputs, found)


def _module(name: str, made: object) -> nn.Module:
    """What a factory made, if it is a module."""
    if isinstance(made, type) and issubclass(made, nn.Module):
        raise ModelError(f"model {name}: the factory gave the class {made.__name__}: it must return an object of it")
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        hint = ": does it end without a return?" if made is None else ""
        raise ModelError(f"model {name}: the factory gave a {kind}, not a torch.nn.Module{hint}")
    if isinstance(made, torch.jit.ScriptModule):
        raise ModelError(
            f"model {name} is a TorchScript module, which cannot be exported: return the module before that"
        )
    compiled = getattr(made, "_orig_mod", None)  # torch.compile's: the same weights under longer names
    return compiled if isinstance(compiled, nn.Module) else made


def _check_parameters(name: str, module: nn.Module) -> None:
    """Raises ModelError where a parameter or buffer is not one of numbers in this machine's memory."""
    for of, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            continue  # a lazy module's, which its first forward pass makes
        if tensor.device.type == "meta":
            raise ModelError(f"model {name}: {of} is on the meta device and has no values: make the model on the CPU")
        if tensor.device.type != "cpu":
            raise ModelError(
                f"model {name}: {of} is on {tensor.device}: leave .to(...) out, and give --device to clients"
            )
        if isinstance(tensor, nn.Parameter) and tensor.dtype != torch.float32:
            raise ModelError(f"model {name}: parameter {of} is {tensor.dtype}: all parameters must be float32")


_LONGEST_SAMPLE = 12


def sample(module: nn.Module, input_shape: tuple[int, ...], count: int) -> torch.Tensor:
    """The same made-up inputs every time.

    Args:
        module: The model. One that reads tokens says how many there are: `vocabulary`.
        input_shape: Of one example.
        count: How many.

    Returns:
        Float32 (count, *input_shape) in [0, 1); or tokens, int64 (count, t) or (count, choices, t), of which each row has one less than the
        one before and is padded.
    """
    generator = torch.Generator().manual_seed(0)
    if not (vocabulary := vocabulary_of(module)):
        return torch.rand(count, *input_shape, generator=generator)
    *choices, most = input_shape
    rows, longest = count * math.prod(choices), min(_LONGEST_SAMPLE, most)
    tokens = torch.randint(0, vocabulary, (rows, longest), generator=generator)
    if getattr(module, "predicts", False):
        tokens[:, 1::2] += PREDICTED
    for place in range(rows):
        tokens[place, max(1 + len(choices), longest - place) :] = PADDING
    return tokens.reshape(count, *choices, longest)


def vocabulary_of(module: nn.Module) -> int:
    """How many tokens a model knows that reads tokens; 0 for one that reads numbers."""
    return int(getattr(module, "vocabulary", 0))


def _factory(model: Model, language: Language | None) -> Factory:
    if model.name.startswith(PRETRAINED):
        return partial(_of_texts, model.name, language)
    if model.name in RESNET_WIDTHS:
        return partial(ResNet, norm=model.norm, name=model.name)
    if model.name in _BUILT_IN:
        return _BUILT_IN[model.name]
    if model.name.startswith(PREFIX):
        return partial(_from_torchvision, model.name)
    path, _, attribute = model.name.partition(":")
    with foreign_code(f"model {model.name} cannot be imported:"):
        factory = getattr(importlib.import_module(path), attribute)
    if not callable(factory):
        raise ModelError(
            f"model {model.name} is a {type(factory).__name__}: it must be callable as (input_shape, outputs)"
        )
    return lambda input_shape, outputs: _call(model.name, factory, input_shape, outputs)


def _half_width_factory(model: Model) -> Factory:
    if model.name == "mlp":
        return partial(mlp, width=MLP_WIDTH // 2)
    if model.name in ("cnn", "cnn1d"):
        return partial(_BUILT_IN[model.name], filters=CNN_FILTERS // 2)
    if model.name in RESNET_WIDTHS and model.norm == "group":
        width, groups = RESNET_WIDTHS[model.name] // 2, RESNET_GROUPS // 2
        return partial(ResNet, norm=model.norm, name=model.name, width=width, groups=groups)
    raise ModelError(
        f"model {model.name} has no half-width part: use mlp, cnn, cnn1d, or resnet8 or resnet18 with group normalisation"
    )


def _call(name: str, factory: Factory, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    with foreign_code(f"model {name}: factory({input_shape}, {outputs}) raised"):
        return factory(input_shape, outputs)


def _of_texts(name: str, language: Language | None, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    try:
        return language_model(name, language, input_shape, outputs)
    except ValueError as error:
        raise ModelError(str(error)) from None


def _from_torchvision(name: str, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    try:
        return classifier(name.removeprefix(PREFIX), input_shape, outputs)
    except Unsuitable as error:
        raise ModelError(f"model.name = {name!r}: {error}") from error


def _check_shape(name: str, input_shape: tuple[int, ...]) -> None:
    """What the models made here ask of their inputs."""
    if name == "cnn1d":
        if len(input_shape) != 2 or input_shape[1] < _LEAST_LENGTH:
            raise ModelError(
                f"model cnn1d needs sequences (channels, length) of at least {_LEAST_LENGTH} steps, not {input_shape}: "
                f"{_suggested(input_shape)}"
            )
        return
    least = {"cnn": 4, "resnet8": 8, "resnet18": 8, "vit": 4}.get(name)
    if least is None:
        return
    if len(input_shape) != 3:
        wanted = f"images (channels, H, W) of at least {least}x{least}"
        raise ModelError(f"model {name} needs {wanted}, not {input_shape}: {_suggested(input_shape)}")
    if min(input_shape[1:]) < least:
        raise ModelError(f"model {name} needs inputs (channels, H, W) of at least {least}x{least}, not {input_shape}")
    if name == "vit" and (input_shape[1] % 4 or input_shape[2] % 4):
        raise ModelError(f"model vit needs H and W that are multiples of 4, its patch: not {input_shape}")


def _suggested(input_shape: tuple[int, ...]) -> str:
    """Which model suits inputs of a shape, as a sentence ends."""
    if len(input_shape) == 2:
        return "for these sequences use cnn1d" if input_shape[1] >= _LEAST_LENGTH else "for sequences so short use mlp"
    if len(input_shape) == 1:
        return "for rows use mlp"
    return "for images use cnn; if they are sequences (n, length, channels), read them with npz:PATH,kind=sequence"


_DRAWS, _SUM_TOLERANCE = 24, 1e-3
_NOISE = (0.02, 0.1, 0.5)  # beside three times the weights with random signs; deep models overflow at the last


def require_logits(name: str, module: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """See whether the outputs of `module`, in eval mode, could be anything; its weights stay as they are.

    Args:
        name: What to call the model in a sentence.
        module: The model.
        inputs: Float32 (n, *shape).
        outputs: Float32 (n, outputs), what it gives for these.

    Raises:
        ModelError: The outputs are never below 0 nor above 1.
    """
    if not _within(outputs):
        return
    seen = [outputs]
    trainable = {key: tensor.detach() for key, tensor in module.named_parameters() if tensor.requires_grad}
    chance = torch.Generator().manual_seed(0)
    for draw in range(_DRAWS):
        noise = _NOISE[draw % len(_NOISE)]
        changed = {key: _changed(tensor, noise, chance) for key, tensor in trainable.items()}
        try:
            with foreign_code(f"model {name}"):
                outputs = torch.func.functional_call(module, changed, (inputs,))
        except ModelError:
            continue  # it does not like these weights
        if not torch.isfinite(outputs).all():
            continue
        if not _within(outputs):
            return
        seen.append(outputs)
    if len(seen) == 1:
        return
    together = torch.cat(seen).sum(1)
    end = "a softmax" if (together - 1).abs().max() <= _SUM_TOLERANCE else "a sigmoid"
    raise ModelError(
        f"model {name} gives numbers from 0 to 1 whatever its weights are, as {end} at its end does: leave that out and "
        "return logits, which the loss applies softmax to"
    )


def _within(outputs: torch.Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _changed(tensor: torch.Tensor, noise: float, chance: torch.Generator) -> torch.Tensor:
    signs = torch.randint(0, 2, tensor.shape, generator=chance) * 2 - 1
    return 3 * signs * tensor.cpu() + noise * torch.randn(tensor.shape, generator=chance)
