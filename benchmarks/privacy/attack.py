"""Membership inference from scalars: an attacker who has all that a coordinator has guesses which of two examples a device holds.

Of a run's ledger the attacker has each client's scalars, their seeds and the weights at every version. It is shown two examples of one class,
one of the client's and one that is nobody's, and says which is the client's. The *informed* attacker has all other examples of the client
as well, and whatever noise was added: it compares how likely the scalars are with the one and with the other, which is the best that anybody can do. The *blind*
one has none of them: it compares how likely the scalars are where all others are drawn from those of nobody's. The advantage is twice the share of
right guesses less one: 0 for a coin, 1 for who is always right.

Where devices share the noise, the ledger has masked numbers, and the sum of each round is all that they come to. Of it the informed attacker takes off
whatever all other examples of all clients add, so that nothing is left but this one and the noise of all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.private_release import STEPS, Mechanism
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.algorithms.whitening import applied
from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, walk
from zowarmup.common.exact.steps import PIECE
from zowarmup.common.messages.values import Phase, Scalars
from zowarmup.common.models.program import Program
from zowarmup.common.secure_aggregation.fixed_point import whole_weights
from zowarmup.common.settings.privacy import noise_shares
from zowarmup.common.tasks import task_class
from zowarmup.common.tasks.protocol import Batch, Task
from zowarmup.data import Dataset
from zowarmup.data.dataset import micro_batches
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.masking import sum_of
from zowarmup.server.core.state import State
from zowarmup.server.setup.stored_version import constants_in
from zowarmup.server.store.archive import LEDGER, Archive, open_archive, restore
from zowarmup.server.store.ledger import Ledger

OUTSIDERS = 120
"""Of nobody's examples so many are used."""


@dataclass(frozen=True)
class Advantages:
    """Of both attackers, over so many guesses."""

    informed: float
    blind: float
    guesses: int


@dataclass(frozen=True)
class Answer:
    """What a client sent in a round: at which version, with which seed."""

    version: int
    client: str
    seed: int
    projections: NDArray[np.float64]


@dataclass(frozen=True)
class Summed:
    """What the clients of a round gave together: at which version, with which seed; what each example of a client counts with; the sum
    of all with its noise, and the standard deviation of that."""

    version: int
    seed: int
    counts: dict[str, float]
    weight: int
    sums: NDArray[np.float64]
    noise: float


def attacked(
    data_dir: Path,
    shards: dict[str, Dataset],
    nobodys: Dataset,
    pairs: int,
    seed: int,
    others: dict[str, Dataset] | None = None,
) -> Advantages:
    """Attack a run whose head alone moves.

    Args:
        data_dir: Of the run.
        shards: Of each client its data, as the model reads it.
        nobodys: Examples that no client has.
        pairs: How many guesses to make for each client, at most.
        seed: Of the choice of pairs.
        others: Of each client that is not attacked its data, where devices share the noise.
    """
    archive, chance = open_archive(data_dir), np.random.default_rng(seed)
    nobodys = nobodys.select(np.sort(chance.permutation(len(nobodys))[:OUTSIDERS]))
    watched = Watched(archive, {**shards, **(others or {}), "": nobodys})
    chosen = {client: _pairs(data, nobodys, pairs, chance) for client, data in shards.items()}
    informed = {client: np.zeros(len(chosen[client])) for client in shards}
    blind = {client: np.zeros(len(chosen[client])) for client in shards}
    for together in sums(data_dir) if archive.state.run_file.privacy.shares_noise else ():
        _attack_sum(watched, together, chosen, informed, blind)
    for answer in answers(data_dir, archive):
        if answer.client not in chosen or not len(chosen[answer.client]):
            continue
        inside, outside = chosen[answer.client].T
        own, outsiders = (watched.contributions(answer.version, answer.seed, name) for name in (answer.client, ""))
        moved = (outsiders[outside] - own[inside]) / len(own)
        error = answer.projections - own.mean(0)
        # The squared distance to what would be sent with the other one, less that to what is sent with this.
        informed[answer.client] += (moved * moved).sum(1) - 2 * moved @ error
        blind[answer.client] += _likelier(
            answer.projections, own[inside], outsiders[outside], outsiders, len(own), watched.noise
        )
    return Advantages(_advantage(informed), _advantage(blind), sum(map(len, chosen.values())))


def _attack_sum(
    watched: "Watched",
    together: Summed,
    chosen: dict[str, NDArray[np.int64]],
    informed: dict[str, NDArray[np.float64]],
    blind: dict[str, NDArray[np.float64]],
) -> None:
    """Add what a round's sum says of each guess."""
    each = {
        name: watched.contributions(together.version, together.seed, name, False) for name in (*together.counts, "")
    }
    left = together.sums - np.sum([count * each[name].sum(0) for name, count in together.counts.items()], axis=0)
    for name, pairs in chosen.items():
        if name not in together.counts or not len(pairs):
            continue
        inside, outside, counts = each[name][pairs[:, 0]], each[""][pairs[:, 1]], together.counts[name]
        moved = counts * (outside - inside)
        informed[name] += (moved * moved).sum(1) - 2 * moved @ left
        given, weight = together.sums / together.weight, together.weight
        # Among the examples that stand for all others there must not be the one that is compared, which would tell it apart by itself.
        for guess, place in enumerate(pairs[:, 1]):
            others = np.delete(each[""], place, 0)
            one, other = inside[guess : guess + 1], outside[guess : guess + 1]
            blind[name][guess] += _likelier(given, one, other, others, weight, together.noise, counts)[0]


def _likelier(
    given: NDArray[np.float64],
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
    others: NDArray[np.float64],
    examples: int,
    noise: float,
    counts: float = 1.0,
) -> NDArray[np.float64]:
    """How much likelier what was given is with one example than with another, where all else are drawn from those of nobody's: the
    logarithm of normal densities, whose covariance is that of the mean, and of its noise. `counts`: with what the example counts."""
    mean = others.mean(0)
    spread = np.cov(others.T, bias=True)
    spread += 0.05 * np.trace(spread) / len(spread) * np.eye(len(spread))
    variance = (noise / examples) ** 2
    inverse = np.linalg.inv(spread / examples + variance * np.eye(len(spread)))
    one, other = counts * (inside - mean) / examples, counts * (outside - mean) / examples
    towards: NDArray[np.float64] = (one - other) @ inverse @ (given - mean)
    towards -= (((one @ inverse) * one).sum(1) - ((other @ inverse) * other).sum(1)) / 2
    return towards


def _advantage(scores: dict[str, NDArray[np.float64]]) -> float:
    every = np.concatenate(list(scores.values()))
    return float(2 * ((every > 0) + (every == 0) / 2).mean() - 1)


def _pairs(data: Dataset, nobodys: Dataset, most: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """Places of an example of the client's and of one of nobody's, of the same class, int64 (n, 2)."""
    found = []
    for place in chance.permutation(len(data))[:most]:
        alike = np.flatnonzero(nobodys.targets == data.targets[place])
        if len(alike):
            found.append((place, chance.choice(alike)))
    return np.array(found, np.int64).reshape(-1, 2)


def answers(data_dir: Path, archive: Archive) -> Iterator[Answer]:
    """All that the ledger has of zeroth-order rounds, but of one that whitens."""
    opened: ev.RoundOpened | None = None
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    first = archive.layout.whitening is not None
    whitens = -1
    try:
        for _, event in ledger.read():
            match event:
                case ev.RoundOpened() if event.phase is Phase.ZEROTH_ORDER:
                    opened = event
                    whitens = event.round if first else whitens
                    first = False
                case ev.Contributed() if (
                    isinstance(event.contribution, Scalars) and event.contribution.round != whitens
                ):
                    assert opened is not None
                    seeds = dict(zip(opened.participants, opened.seeds, strict=True))
                    projections = np.array(event.contribution.projections)
                    yield Answer(opened.version, event.client, seeds[event.client], projections)
    finally:
        ledger.close()


def sums(data_dir: Path) -> Iterator[Summed]:
    """What a coordinator gets out of each round in which devices shared the noise."""
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    state: State | None = None
    try:
        for _, event in ledger.read():
            state = evolve(state, event)
            closed = state.current
            if not isinstance(event, ev.RoundClosed) or closed is None:
                continue
            rules, present = state.run_file.zeroth_order, sorted(closed.contributors)
            shares = noise_shares(state.run_file.privacy, rules.rounds, len(closed.members))
            examples = [closed.examples[name] for name in closed.members]
            weights = dict(zip(closed.members, whole_weights(counted(examples, rules)), strict=True))
            whole = sum_of(state, closed).view(np.int64).astype(np.float64)
            step = shares.step(whole.size)
            yield Summed(
                closed.version,
                closed.seeds[present[0]],
                {name: weights[name] / closed.examples[name] for name in present},
                sum(weights[name] for name in present),
                whole * step,
                step * STEPS * float(np.sqrt(len(present))),
            )
    finally:
        ledger.close()


class Watched:
    """What each example would contribute, at any version, by the coordinator's own model.

    Args:
        archive: Of the run.
        data: Data sets by name.
    """

    def __init__(self, archive: Archive, data: dict[str, Dataset]) -> None:
        self._archive, self._data = archive, data
        run, self._layout = archive.state.run_file, archive.layout
        self._privacy, self._budget = run.privacy, archive.state.budget
        self._plan = run.zeroth_order.build(self._layout).plan  # type: ignore[attr-defined]
        self._task: Task = _task(archive)
        self._replica = restore(archive.state, archive.history, archive.blobs, 0)
        self._seed, self._drawn = -1, np.empty((0, 0))
        program = Program(archive.program, self._layout, self._replica.weights, constants=constants_in(archive))
        self._features = {name: _features(program, one) for name, one in data.items()}

    @property
    def noise(self) -> float:
        """The standard deviation of the noise on a sum of contributions."""
        if self._budget is None:
            return 0.0
        return float(2 * self._budget.clip * np.sqrt(self._plan.projections) * self._budget.multiplier)

    def contributions(self, version: int, seed: int, name: str, decays: bool = True) -> NDArray[np.float64]:
        """Of each example of a data set its scalars, clipped where the run clips them, float64 (n, m); `decays`: with what they have of
        the weights alone."""
        read, layout, data = self._features[name], self._layout, self._data[name]
        views = layout.views(self._weights_at(version))
        if layout.whitening is not None:
            read = applied(read, views[layout.whitening.name])
        head, block = layout.head, layout.block("head")
        assert head is not None and head.bias_name is not None
        outputs = read @ views[head.weight_name].T + views[head.bias_name]
        _, residual = self._task.loss_and_output_gradient(outputs, Batch(None, data.targets))
        # z . (r f^T, r) of each example is r^T (Z f + z_b): one product for all directions.
        signs = self._signs(seed).T.reshape(-1, head.classes * (head.features + 1))
        weights = signs[:, : head.classes * head.features].reshape(-1, head.features)
        seen = (read @ weights.T.astype(np.float32)).reshape(len(data), -1, head.classes)
        moved = seen + signs[:, head.classes * head.features :]
        found: NDArray[np.float64] = np.einsum("nkc,nc->nk", moved, residual)
        if self._budget is not None:
            lengths = np.linalg.norm(found, axis=1)
            mechanism, size = Mechanism(self._budget.clip, self._budget.multiplier, np.zeros), found.shape[1]
            most = mechanism.norm(size) - mechanism.step(size) * np.sqrt(size) / 2
            found *= np.minimum(1, most / np.maximum(lengths, 1e-300))[:, None]
        if not (decays and self._plan.decay):
            return found
        decay = np.zeros(block.size)
        decay[: head.classes * head.features] = self._plan.decay * views[head.weight_name].ravel()
        drawn: NDArray[np.float64] = found + decay @ self._signs(seed)
        return drawn

    def _signs(self, seed: int) -> NDArray[np.float64]:
        """The directions of a seed in the head's block, +1 and -1, float64 (size, m)."""
        if seed != self._seed:
            block, groups = self._layout.block("head"), range(-(-self._plan.projections // DIRECTIONS_PER_GROUP))
            lanes = [
                np.concatenate([lane for _, lane in walk(seed, g, block.start, block.stop, PIECE)]) for g in groups
            ]
            bits = np.concatenate([np.unpackbits(lane[:, None], axis=1, bitorder="little") for lane in lanes], axis=1)
            self._seed, self._drawn = seed, 2.0 * bits[:, : self._plan.projections] - 1
        return self._drawn

    def _weights_at(self, version: int) -> NDArray[np.float32]:
        archive, replica = self._archive, self._replica
        if version == replica.version:
            return replica.weights
        if (commits := archive.history.since(replica.version, version)) is not None:
            replica.apply(commits)
        else:
            self._replica = replica = restore(archive.state, archive.history, archive.blobs, version)
        return replica.weights


def _task(archive: Archive) -> Task:
    return task_class(archive.state.run_file.model.task)(archive.state.program.card)


def _features(program: Program, data: Dataset) -> NDArray[np.float32]:
    """What the head reads of each example, float32 (n, h): all below it is as it was at the beginning."""
    rows: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    lengths = getattr(data, "lengths", None)
    for chosen in micro_batches(lengths, np.arange(len(data)), 64):
        features = program.forward(data.batch(chosen).inputs)[1]
        assert features is not None
        rows.append((chosen, features.copy()))
    found = np.empty((len(data), rows[0][1].shape[1]), np.float32)
    for chosen, features in rows:
        found[chosen] = features
    return found


def names_of(high: int, low: int) -> Sequence[str]:
    """What `zowarmup.simulate` calls its clients."""
    return [*(f"high-{n + 1}" for n in range(high)), *(f"low-{n + 1}" for n in range(low))]
