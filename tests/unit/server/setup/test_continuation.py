"""The learning rate of a run that goes on from the weights of another."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.setup.continuation import Left, advice
from zowarmup.server.setup.run_file import RunFileError, read_run_file

FINISHED = Left(0.8, 0.0, 300, "normalized")
HALFWAY = Left(0.8, 0.4, 150, "normalized")


def weights(folder: Path, left: Left | None) -> Path:
    path = folder / "good.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, path, metadata=left.metadata() if left else {"run": "another"})
    return path


def run_file(folder: Path, path: Path | str, *lines: str) -> RunFile:
    text = f"""
        name = "on"
        [model]
        name = "mlp"
        weights = "{path}"
        [warmup]
        rounds = 0
        [zeroth_order]
        rounds = 10
        {os.linesep.join(lines)}
        [evaluation]
        data = "digits:test"
    """
    (folder / "run.toml").write_text(text)
    return read_run_file(folder / "run.toml")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for left in (FINISHED, HALFWAY):
        assert Left.read(weights(tmp_path, left)) == left
    assert Left.read(weights(tmp_path, None)) is None


@pytest.mark.parametrize(("left", "rate"), [(FINISHED, 0.08), (HALFWAY, 0.4)])
def test_continue_is_the_rate_that_they_were_left_at_but_at_least_a_tenth_of_the_first(
    tmp_path: Path, left: Left, rate: float
) -> None:
    run = run_file(tmp_path, weights(tmp_path, left), 'rate = "continue"')
    assert run.zeroth_order.rate == pytest.approx(rate)
    assert advice(run) == ""


@pytest.mark.parametrize(
    ("left", "lines", "said"),
    [
        (None, (), "does not say at which rate it was left"),
        (FINISHED, ('step = "raw"',), "step = 'normalized', this run has 'raw'"),
    ],
)
def test_what_cannot_be_continued_is_one_sentence(
    tmp_path: Path, left: Left | None, lines: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RunFileError, match=f'zeroth_order.rate = "continue": .*{said}'):
        run_file(tmp_path, weights(tmp_path, left), 'rate = "continue"', *lines)


@pytest.mark.parametrize(("path", "said"), [("", "give model.weights"), ("/nowhere/x.safetensors", "cannot be read")])
def test_without_weights_there_is_nothing_to_continue(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(RunFileError, match=said) as refused:
        run_file(tmp_path, path, 'rate = "continue"')
    assert len(str(refused.value).splitlines()) == 1


def test_files_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(RunFileError, match="cannot be read as safetensors"):
        run_file(tmp_path, tmp_path / "x", 'rate = "continue"')


@pytest.mark.parametrize(
    ("left", "rate", "warns"), [(FINISHED, 0.8, True), (FINISHED, 0.1, False), (HALFWAY, 0.5, False)]
)
def test_a_rate_far_above_is_advised_against(tmp_path: Path, left: Left, rate: float, warns: bool) -> None:
    said = advice(run_file(tmp_path, weights(tmp_path, left), f"rate = {rate}"))
    assert bool(said) == warns
    if warns:
        assert 'rate = "continue" begins with 0.08' in said and "annealed from 0.8" in said


def test_nothing_is_advised_where_nothing_is_known() -> None:
    plain = RunFile(
        name="new",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(rounds=5),
        evaluation=Evaluation(data="digits:test"),
    )
    assert advice(plain) == ""
