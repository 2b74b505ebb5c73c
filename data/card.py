"""The data card of a held-out set, and the comparison of a device's data with the run's card.

What would make labels or inputs mean something else on one device than on the others is refused, with one sentence that
says what both sides have. What a device may lack, or have in another order, is put right: classes are matched by name,
and mean and deviation are the run's.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import (
    CHOICES,
    FEATURES,
    IMAGE,
    TOKENS,
    DataCard,
    InputSummary,
    composed,
    numbers,
)
from zowarmup.common.text import listed
from zowarmup.data.dataset import DataError, Dataset, standardised

# Examples, evenly spread: enough to see a wrong unit. VALUES are looked at together, so that a small device takes no
# megabytes for them: once the C library has given back so large a piece, it cuts later ones out of its heap, with gaps.
SAMPLED, VALUES = 4096, 1 << 13
# Distances from the held-out mean, in held-out deviations, averaged over all values. Of the held-out inputs themselves it
# is at most 1; of a device with its own mix of classes it may be 2; of bytes beside values in 0 to 1 it is some 50 and more.
WARN_DISTANCE, REFUSE_DISTANCE = 3.0, 10.0
# One value counts as no farther than this many deviations, so that a single wild one does not decide.
FARTHEST = 1000.0
# A device's own deviation and the size of its stored values, in held-out ones: values in 0 to 1 beside bytes have 0.004 of
# both. A device that sees little change has a small deviation alone, and one that sees nothing has 0.
WARN_SPREAD, REFUSE_SPREAD = 0.1, 0.01
# The same of one feature: a hundredth of the held-out deviation and size, as metres have beside centimetres.
FEATURE_SPREAD = 0.02
# Images whose values go below zero by this share of the held-out deviation, beside others that do not, are in another unit.
NEGATIVE_SHARE = 0.1


def card_of(held_out: Dataset, source: str, most_tokens: int = 0) -> DataCard:
    """The data card of a run that is evaluated on a held-out set.

    Of rows and sequences the mean and deviation of each feature or channel are the held-out ones.

    Args:
        held_out: The held-out set.
        source: What to call it in a sentence.
        most_tokens: Of texts, how many tokens the run makes of one at most.

    Raises:
        DataError: The held-out set shows that its labels begin at 1, or its names cannot be used.
    """
    held_out = standardised(held_out)
    shape, axes = held_out.shape, held_out.axes
    if held_out.is_text:
        shape, axes = (most_tokens,), (TOKENS,)
    if held_out.has_choices:
        shape, axes = (held_out.classes, *shape), (CHOICES, *axes)
    numbered = held_out.classes and not held_out.class_names and not held_out.has_choices
    if numbered and not np.bincount(held_out.targets)[0]:
        raise DataError(
            f"{source}: its labels go from {held_out.targets.min()} to {held_out.targets.max()} and class 0 never occurs: "
            "labels begin at 0; subtract 1 from those of every device, and of this one, if they begin at 1"
        )
    try:
        return DataCard(
            classes=held_out.classes,
            shape=shape,
            class_names=held_out.class_names,
            axes=axes,
            element=held_out.stored[0],
            scale=held_out.stored[1],
            mean=tuple(map(float, held_out.mean)),
            deviation=tuple(map(float, held_out.deviation)),
            feature_names=held_out.feature_names,
            inputs=None if held_out.stored[0] == "token" else summary(held_out),
            target_size=held_out.target_size,
        )
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error


def absence(held_out: Dataset, source: str) -> str:
    """A warning where a held-out set lacks examples of some classes.

    Args:
        held_out: The held-out set.
        source: What to call it in a sentence.

    Returns:
        A sentence; empty where no class lacks any.
    """
    if not held_out.classes or held_out.has_choices:
        return ""
    missing = [str(label) for label in np.flatnonzero(np.bincount(held_out.targets, minlength=held_out.classes) == 0)]
    if held_out.class_names:
        missing = [held_out.class_names[int(label)] for label in missing]
    if not missing:
        return ""
    return (
        f"{source} has no example of {listed(missing)}, of {held_out.classes} classes: an evaluation says nothing of them; "
        "see that its labels are meant so"
    )


def summary(data: Dataset) -> InputSummary:
    """Of the inputs of up to SAMPLED examples, evenly spread."""
    count, total, squares, stored = 0, 0.0, 0.0, 0.0
    least, greatest = np.inf, -np.inf
    for rows, values in _sampled(data):
        count += rows.size
        total += float(rows.sum(dtype=np.float64))
        squares += float(np.square(rows, dtype=np.float64).sum())
        stored += float(np.square(values, dtype=np.float64).sum())
        least, greatest = min(least, float(rows.min())), max(greatest, float(rows.max()))
    mean = total / count
    deviation = max(0.0, squares / count - mean * mean) ** 0.5
    stored_size = (stored / count) ** 0.5 / data.scale * data.stored[1]
    return InputSummary(least, greatest, mean, deviation, stored_size)


def fitted(data: Dataset, card: DataCard, source: str) -> tuple[Dataset, list[str]]:
    """Read a device's data as the run's card does.

    Args:
        data: The device's.
        card: The run's.
        source: What to call the data in a sentence.

    Returns:
        The data with labels by the run's classes and inputs by the run's mean and deviation; and what is worth a
        warning, a sentence each.

    Raises:
        DataError: The data do not fit the card.
    """
    if data.is_text != (card.element == "token"):
        kinds = ("texts", "numbers") if data.is_text else ("numbers", "texts")
        remedy = "images, rows or sequences" if data.is_text else "tsv:PATH or jsonl:PATH"
        raise DataError(
            f"the examples of {source} are {kinds[0]}, and the run reads {kinds[1]}: give --data of {remedy}"
        )
    if data.is_text:
        if data.has_choices != bool(card.choices):
            kinds = ("have choices", "have none") if data.has_choices else ("have no choices", "have some")
            raise DataError(
                f"the examples of {source} {kinds[0]}, and the run's {kinds[1]}: give --data like the run's"
            )
        if data.has_choices and data.classes > card.choices:
            raise DataError(
                f"{source} has examples with {data.classes} choices and the run's have at most {card.choices}: leave them out"
            )
        targets, remarks = (data.targets, []) if data.has_choices else _targets(data, card, source)
        return replace(data, targets=targets, classes=card.classes, class_names=card.class_names), remarks
    data, unnamed = _features(data, card, source)
    if data.shape != card.shape:
        own = " x ".join(map(str, data.shape))
        meant = len(card.shape) == 2 and len(data.shape) == 3 and source.startswith("npz:")
        remedy = f"say {source},kind=sequence" if meant else "give --data of that shape"
        raise DataError(f"the examples of {source} are {own} and the run's {card.shaped_as}: {remedy}")
    targets, remarks = _targets(data, card, source)
    own_card = replace(card, element=data.stored[0], scale=data.stored[1])
    if own_card != card:
        raise DataError(
            f"the values of {source} are {own_card.stored_as}, and the run's are {card.stored_as}: store them alike"
        )
    data = replace(
        data,
        targets=targets,
        classes=card.classes,
        class_names=card.class_names,
        mean=card.mean,
        deviation=card.deviation,
        axes=card.axes,
        feature_names=card.feature_names,
    )
    if remark := _range(data, card, source):
        remarks.append(remark)
    return data, unnamed + remarks


def _features(data: Dataset, card: DataCard, source: str) -> tuple[Dataset, list[str]]:
    """Rows with their features in the run's order, and what is worth a warning. Raises DataError where they are others."""
    theirs, mine = card.feature_names, data.feature_names
    if not theirs or not mine:
        if data.shape != card.shape or not (theirs or mine):
            return data, []
        whose = f"{source} has no names of features" if theirs else "the run has no names of features"
        named = listed(f"{place} = {name}" for place, name in enumerate(theirs or mine, 1))
        return replace(data, feature_names=theirs), [f"{whose}: they are taken to be, by their place, {named}"]
    missing, unknown = [n for n in theirs if n not in set(mine)], [n for n in mine if n not in set(theirs)]
    if missing or unknown:
        said = f"; missing here: {listed(missing)}" if missing else ""
        said += f"; unknown to the run: {listed(unknown)}" if unknown else ""
        raise DataError(f"{source} has other columns than the run{said}: name them as the run does, and have no others")
    if mine == theirs:
        return data, []
    places = {name: place for place, name in enumerate(mine)}
    inputs = data.inputs[:, [places[name] for name in theirs]]
    return replace(data, inputs=inputs, feature_names=theirs), []


def _targets(data: Dataset, card: DataCard, source: str) -> tuple[NDArray[Any], list[str]]:
    """The targets as the run means them, and what is worth a warning. Raises DataError where they mean something else."""
    if card.classes and data.classes:
        return _labels(data, card, source)
    if data.target_size != card.target_size:
        own = f"numbers, {data.target_size} of each example" if data.target_size else "labels"
        runs = f"numbers, {card.target_size} of each" if card.target_size else "labels"
        raise DataError(f"the targets of {source} are {own}, and the run's are {runs}: give --data with such targets")
    return data.targets, []


def _labels(data: Dataset, card: DataCard, source: str) -> tuple[NDArray[np.int64], list[str]]:
    """The labels by the run's classes, and what is worth a warning. Raises DataError where they mean others."""
    theirs, mine = card.class_names, data.class_names
    # Where one side has only numbers and the other names its classes by them, these are names like any other.
    if theirs and not mine and set(theirs) == set(numbers(card.classes)) and data.classes <= card.classes:
        mine = numbers(data.classes)
        data = replace(data, class_names=mine, every_class=False)
    elif mine and not theirs and _numbered(data, card.classes):
        theirs = numbers(card.classes)
    if mine and theirs:
        label_of = {name: label for label, name in enumerate(theirs)}
        here = set(mine)
        missing, unknown = [n for n in theirs if n not in here], [n for n in mine if n not in label_of]
        if unknown or (missing and data.every_class):
            said = _unlike(mine, theirs, missing, unknown, data.every_class)
            raise DataError(f"{source} has other classes than the run: {said}")
        labels = np.array([label_of[name] for name in mine], dtype=np.int64)
        return (data.targets if mine == theirs else labels[data.targets]), []
    if data.classes > card.classes or (mine and data.classes != card.classes):
        low, high = int(data.targets.min()), int(data.targets.max())
        if not mine and low >= 1 and high == card.classes:
            raise DataError(
                f"the labels of {source} go from {low} to {high}, and those of the run's {card.classes} classes from 0 "
                f"to {card.classes - 1}: they begin at 1; subtract 1 from each"
            )
        raise DataError(
            f"{source} has {data.classes} classes and the run {card.classes}: "
            + ("make one folder for each of them, empty ones too" if mine else "give --data of the run's classes")
        )
    if mine and not data.every_class:
        raise DataError(f"{source} names its classes ({listed(mine)}) and the run's are only numbers: store numbers")
    if not mine and card.classes > 2 and np.array_equal(np.unique(data.targets), np.arange(1, card.classes)):
        return data.targets, [f"{source} has examples of every class but 0: see that its labels do not begin at 1"]
    if mine or theirs:
        named = listed(f"{label} = {name}" for label, name in enumerate(mine or theirs))
        whose = "the run's classes are only numbers" if mine else f"{source} has no class names"
        return data.targets, [f"{whose}: its labels are taken to be {named}"]
    return data.targets, []


def _numbered(data: Dataset, classes: int) -> bool:
    """Whether the names of a data set are the numbers of its classes."""
    mine, known = set(data.class_names), set(numbers(classes))
    return mine == known or (not data.every_class and mine <= known)


def _unlike(mine: tuple[str, ...], theirs: tuple[str, ...], missing: list[str], unknown: list[str], every: bool) -> str:
    """What differs between two lists of class names, and what to do. `every`: a device has to name all of the run's."""
    said = f"it has {listed(mine)}, the run {listed(theirs)}"
    if missing and every:
        said += f"; missing here: {listed(missing)}"
    if unknown:
        said += f"; unknown to the run: {listed(unknown)}"
    meant = {_folded(name): name for name in missing or theirs}
    if alike := [f"{name!r} for {meant[_folded(name)]!r}" for name in unknown if _folded(name) in meant]:
        return f"{said} (they differ only in case, spaces or the form of letters: {listed(alike)}): name them as the run does"
    if missing and not unknown:
        return f"{said}: make a folder for each of them, empty ones too"
    if not every:
        return f"{said}: name them as the run does, whose held-out set has to hold every class"
    return f"{said}: name them as the run does, one for each class, empty ones too"


def _folded(name: str) -> str:
    """What is left of a name without case, spaces and the compatibility forms of letters."""
    return "".join(composed(name, "NFKC").casefold().split())


def _range(data: Dataset, card: DataCard, source: str) -> str:
    """A warning where the inputs are unlike the held-out ones; empty where they are not. Raises DataError where they are
    in another unit."""
    held = card.inputs
    if held is None or not held.deviation:
        return ""
    distances = count = 0.0
    for rows, values in _sampled(data):
        if not np.isfinite(rows).all():
            wild = values.flat[int(np.argmax(np.abs(values)))]
            raise DataError(
                f"{source} holds {wild:g}, which is beyond 32 bits once the run's mean is taken off and it is divided by the "
                "run's deviation: leave such examples out, if the value stands for a missing one"
            )
        away = np.minimum(np.abs(rows.astype(np.float64) - held.mean), FARTHEST * held.deviation)
        distances += float(away.sum(dtype=np.float64)) / held.deviation
        count += rows.size
    own = summary(data)
    distance, spread = distances / count, own.deviation / held.deviation
    smaller = held.stored_size and 0 < own.stored_size / held.stored_size < REFUSE_SPREAD
    said = (
        f"the inputs of {source} go from {own.least:.3g} to {own.greatest:.3g} (mean {own.mean:.3g}, deviation "
        f"{own.deviation:.3g}), the run's held-out ones from {held.least:.3g} to {held.greatest:.3g} (mean "
        f"{held.mean:.3g}, deviation {held.deviation:.3g})"
    )
    unlike = _unlike_features(data, card) if len(card.shape) < len(IMAGE) else ""
    said = f"{source}: {unlike}" if unlike else said
    if distance > REFUSE_DISTANCE or (spread < REFUSE_SPREAD and smaller):
        raise DataError(f"{said}: store the values in the run's unit")
    below = -NEGATIVE_SHARE * held.deviation
    one_sided = len(card.shape) == len(IMAGE) and (own.least < below) != (held.least < below)
    if distance > WARN_DISTANCE or spread < WARN_SPREAD or one_sided or unlike:
        return f"{said}: see that the values are in the run's unit"
    return ""


def _unlike_features(data: Dataset, card: DataCard) -> str:
    """The features of rows, or channels of sequences, that are in another unit than the held-out ones by the look of them,
    with what both sides have; empty where none is."""
    along = data.mean_shape.index(-1)
    others = tuple(axis for axis in range(len(data.inputs.shape)) if axis != along + 1)
    count, width = 0, data.shape[along]
    total, squares, distances = np.zeros(width), np.zeros(width), np.zeros(width)
    for rows, _ in _sampled(data):
        count += rows.size // width
        total += rows.sum(axis=others, dtype=np.float64)
        squares += np.square(rows, dtype=np.float64).sum(axis=others)
        distances += np.minimum(np.abs(rows), FARTHEST).sum(axis=others, dtype=np.float64)
    # In held-out deviations from the held-out mean; then as they are stored, and how large they are beside the held-out ones.
    mean, deviation = total / count, np.sqrt(np.maximum(0.0, squares / count - np.square(total / count)))
    held_mean, held_deviation = np.array(card.mean), np.array(card.deviation)
    stored_mean, stored_deviation = mean * held_deviation + held_mean, deviation * held_deviation
    size = np.hypot(stored_mean, stored_deviation) / np.maximum(np.hypot(held_mean, held_deviation), 1e-30)
    smaller = (deviation > 0) & (deviation < FEATURE_SPREAD) & (size < FEATURE_SPREAD)
    odd = np.flatnonzero((distances / count > REFUSE_DISTANCE) | smaller)
    kind = (card.axes[along] if card.axes else FEATURES).removesuffix("s")
    named = card.feature_names or tuple(f"{kind} {number}" for number in range(1, width + 1))
    return listed(
        f"{named[place]} has mean {stored_mean[place]:.3g} and deviation {stored_deviation[place]:.3g} (in the run "
        f"{held_mean[place]:.3g} and {held_deviation[place]:.3g})"
        for place in odd
    )


def _sampled(data: Dataset) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Of evenly spread examples, a batch at a time: the inputs as the model reads them, and as they are stored."""
    count = min(SAMPLED, len(data))
    chosen = np.arange(count, dtype=np.int64) * len(data) // count
    batch = max(1, VALUES // max(1, data.inputs[0].size))
    for start in range(0, count, batch):
        indices = chosen[start : start + batch]
        yield data.batch(indices).inputs, data.inputs[indices]
