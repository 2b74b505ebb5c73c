"""The half-width part of a layout: exact shapes, and the map between the two vectors as a law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.models.construction import ModelError, build
from zowarmup.common.models.description import build_part, describe, flatten, load_into
from zowarmup.common.settings.run import Model


def laid_out(shapes: list[tuple[int, ...]], inputs: int, classes: int, buffers: int = 0) -> Layout:
    """Layers of the given shapes, with a bias each, between `inputs` and a head; then so many float buffers."""
    named: list[tuple[str, tuple[int, ...]]] = []
    read = inputs
    for number, (units, *kernel) in enumerate(shapes):
        named += [(f"{number}.weight", (units, read, *kernel)), (f"{number}.bias", (units,))]
        read = units
    named += [("head.weight", (classes, read)), ("head.bias", (classes,))]
    tensors: list[Tensor] = []
    for name, shape in [*named, *((f"buffer-{n}", (read,)) for n in range(buffers))]:
        tensors.append(Tensor(name, shape, tensors[-1].stop if tensors else 0))
    edge, stop = tensors[len(named) - 2].start, tensors[len(named) - 1].stop
    blocks = (Block("all", 0, stop), Block("trunk", 0, edge), Block("head", edge, stop))
    head = Head("head.weight", "head.bias", read, classes)
    return Layout(tuple(tensors), stop, tensors[-1].stop, blocks, head)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    kernels = st.one_of(st.just(()), st.tuples(st.integers(1, 3), st.integers(1, 3)))
    layers = draw(st.lists(st.tuples(st.integers(1, 7), kernels), min_size=1, max_size=4))
    shapes = [(units, *kernel) for units, kernel in layers]
    return laid_out(shapes, draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(0, 2)))


def test_half_of_every_hidden_layer_rounded_up() -> None:
    part = half_width(laid_out([(5,), (4, 3, 3)], inputs=7, classes=3, buffers=1))
    assert [(tensor.name, tensor.shape) for tensor in part.layout.tensors] == [
        ("0.weight", (3, 7)),
        ("0.bias", (3,)),
        ("1.weight", (2, 3, 3, 3)),
        ("1.bias", (2,)),
        ("head.weight", (3, 2)),
        ("head.bias", (3,)),
        ("buffer-0", (2,)),
    ]
    assert part.layout.head == Head("head.weight", "head.bias", 2, 3)
    assert (part.layout.trainable, part.layout.size) == (89, 91)


def test_the_map_in_exact_numbers() -> None:
    """A weight (3, 2), its bias (3,), a head (2, 3) and its bias: the upper left corners of each."""
    part = half_width(laid_out([(3,)], inputs=2, classes=2))
    whole = np.arange(17, dtype=np.float32)
    assert part.take(whole).tolist() == [0, 1, 2, 3, 6, 7, 9, 10, 12, 13, 15, 16]
    assert np.flatnonzero(part.held(0, 17)).tolist() == part.take(whole).tolist()
    assert [part.before(place) for place in (0, 4, 5, 6, 8, 9, 11, 12, 14, 17)] == [0, 4, 4, 4, 6, 6, 8, 8, 10, 12]


@given(layouts(), st.data())
def test_any_range_of_the_whole_is_a_range_of_the_part(layout: Layout, data: st.DataObject) -> None:
    part = half_width(layout)
    whole = np.arange(layout.size, dtype=np.float32)
    start = data.draw(st.integers(0, layout.size))
    stop = data.draw(st.integers(start, layout.size))
    held = part.held(start, stop)
    assert held.shape == (stop - start,)
    assert whole[start:stop][held].tolist() == part.take(whole)[part.before(start) : part.before(stop)].tolist()


@given(layouts())
def test_a_part_is_a_model_of_the_same_tensors(layout: Layout) -> None:
    part = half_width(layout)
    assert [t.name for t in part.layout.tensors] == [t.name for t in layout.tensors]
    assert part.layout.head is not None and layout.head is not None
    assert part.layout.head.classes == layout.head.classes
    assert part.layout.tensors[0].shape[1] == layout.tensors[0].shape[1], "inputs are whole"
    assert half_width(Layout.from_json(layout.to_json())) == part, "both sides find the same"
    whole = np.arange(layout.size, dtype=np.float32)
    for name, view in part.layout.views(part.take(whole)).items():
        leading = tuple(slice(-(-extent // 2)) for extent in layout.views(whole)[name].shape)
        corner = layout.views(whole)[name][tuple(map(slice, view.shape))]
        assert np.array_equal(view, corner)
        assert all(
            small in (cut.stop, full) for small, cut, full in zip(view.shape, leading, corner.shape, strict=True)
        )


def test_without_a_head_there_is_none() -> None:
    layout = Layout((Tensor("w", (4, 4), 0),), 16, 16, (Block("all", 0, 16),))
    with pytest.raises(ValueError, match="does not end in a linear classifier"):
        half_width(layout)


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("mlp", (1, 8, 8), (9_610, 4_810)),
        ("cnn", (1, 8, 8), (9_930, 3_818)),
        ("cnn", (3, 32, 32), (10_218, 3_962)),
        ("cnn", (1, 14, 11), (16_010, 6_858)),
        ("cnn1d", (3, 128), (5_418, 2_074)),
        ("resnet8", (3, 32, 32), (78_042, 19_954)),
        ("resnet18", (3, 32, 32), (11_173_962, 2_797_610)),
    ],
)
def test_every_such_model_at_half_its_width_has_the_parts_layout(
    name: str, shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    layout = describe(build(Model(name=name), shape, 10, 0), shape)
    part = half_width(layout)
    module = build_part(Model(name=name), shape, 10, part)
    assert describe(module, shape) == part.layout
    assert (layout.size, part.layout.size) == sizes


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("mlp", (9,)),
        ("cnn", (1, 8, 8)),
        ("cnn1d", (3, 40)),
        ("resnet8", (3, 8, 8)),
        ("resnet18", (1, 8, 8)),
    ],
)
def test_where_the_other_half_is_alike_the_part_says_what_the_whole_does(name: str, shape: tuple[int, ...]) -> None:
    """A whole model in which each hidden layer's second half repeats the first, channel by channel, gives the logits that
    the scaled part gives: the parts' flattened features, groups of channels and scale are the whole's."""
    import torch

    model, images = Model(name=name), torch.rand(5, *shape, generator=torch.Generator().manual_seed(2))
    whole = build(model, shape, 10, 3)
    layout = describe(whole, shape)
    part = half_width(layout)
    weights = flatten(whole, layout)
    mine = part.layout.views(part.take(weights))
    for name_, view in layout.views(weights).items():
        times = [full // half for full, half in zip(view.shape, mine[name_].shape, strict=True)]
        view[...] = np.tile(mine[name_], times)
    load_into(whole, layout, weights)
    module = build_part(model, shape, 10, part)
    load_into(module, part.layout, part.take(weights))
    with torch.no_grad():
        expected, found = whole(images), module(images)
    assert float(expected.std()) > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [Model(name="vit"), Model(name="resnet18", norm="batch"), Model(name="a.b:c")])
def test_of_no_other_model_is_a_part_known(model: Model) -> None:
    part = half_width(laid_out([(4,)], inputs=2, classes=2))
    with pytest.raises(ModelError, match=f"model {model.name} has no half-width part"):
        build_part(model, (3, 8, 8), 10, part)
