"""A device's policy, what of it is used up, and forward passes that take too long."""

import asyncio
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from zowarmup.client.errors import Final, Setback
from zowarmup.client.policy import Allowance, Policy, UsedToday, read_policy
from zowarmup.client.work.watched_program import Overlong, Watch, watching
from zowarmup.common.models.program import Halt

EXAMPLE = Path(__file__).parents[3] / "examples/policy.toml"
DAY_S = 86400


def test_the_example_says_the_defaults_of_every_field() -> None:
    assert read_policy(EXAMPLE) == Policy()
    assert tomllib.loads(EXAMPLE.read_text()).keys() == asdict(Policy()).keys()


def test_models_are_allowed_by_name_alone() -> None:
    policy = read_policy(None, ["my.models:tiny"])
    policy.require_model("mlp")
    policy.require_model("my.models:tiny")
    for name in ("my.models:large", "os:system", "my.models"):
        with pytest.raises(Final, match=f"does not run the code of model {name}"):
            policy.require_model(name)
    for wrong in ("tiny", "my models:tiny", ":x", "a:b:c", "../x:y"):
        with pytest.raises(Final, match="--allow-model: models: "):
            read_policy(None, [wrong])


def test_a_days_count_begins_anew_and_the_whole_does_not(tmp_path: Path) -> None:
    clock = [5 * DAY_S + 100.0]
    moved = [0]
    policy = Policy(mb_per_day=1.0, probes_per_day=10, probes=25)

    def allowance() -> Allowance:
        return Allowance(policy, tmp_path / "usage.json", lambda: moved[0], lambda: clock[0])

    first = allowance()
    first.require_probes(10)
    with pytest.raises(Setback) as until:
        first.require_probes(1)
    assert until.value.absent_s == DAY_S - 100
    moved[0] = 900_000
    first.require_bytes(100_000)
    with pytest.raises(Setback, match=r"this device's 1 MB of today are used up"):
        first.require_bytes(100_001)
    moved[0] = 0  # another process
    second = allowance()
    assert second.usage == UsedToday(5, 900_000, 10, 10)
    clock[0] = 4 * DAY_S  # a clock that was set back gives nothing back
    with pytest.raises(Setback):
        second.require_probes(1)
    clock[0] = 6 * DAY_S
    second.require_probes(10)
    clock[0] = 7 * DAY_S
    second.require_bytes(1_000_000)
    with pytest.raises(Final, match="has answered 20 probes, of 25 in all"):
        second.require_probes(6)
    second.require_probes(5)


def test_without_limits_nothing_is_written(tmp_path: Path) -> None:
    allowance = Allowance(Policy(), tmp_path / "usage.json", lambda: 10**12)
    allowance.require_bytes(10**12)
    allowance.require_probes(10**6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{}", '{"day": -1}', '{"day": true}', "[", '{"more": 1}', "[" * 10**5])
def test_a_damaged_count_is_no_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "usage.json").write_text(text)
    if text == "{}":
        assert Allowance(Policy(probes=1), tmp_path / "usage.json", lambda: 0).usage == UsedToday()
        return
    with pytest.raises(Final, match="is damaged: remove it"):
        Allowance(Policy(probes=1), tmp_path / "usage.json", lambda: 0)


class Stuck(Halt):
    """Of a program within an operator that does not end."""

    stops = 0

    def stop(self) -> None:
        self.stops += 1


class Looked(Watch):
    """Counts how often it is looked at."""

    looks = 0

    def overdue_s(self) -> float:
        self.looks += 1
        return super().overdue_s()


def test_a_pass_that_does_not_stop_is_given_up() -> None:
    watch, stuck = Looked(most_s=0.01), Stuck()
    watch.halt = stuck
    given_up = asyncio.Event()
    said: list[str] = []

    async def give_up(sentence: str) -> None:
        said.append(sentence)
        given_up.set()

    async def scenario() -> None:
        async with watching(watch, give_up, least_grace_s=0.05), asyncio.timeout(60):
            while watch.looks < 3:
                await asyncio.sleep(0.001)
            assert stuck.stops == 0  # none is under way
            watch.began = asyncio.get_running_loop().time()
            await given_up.wait()

    asyncio.run(scenario())
    assert stuck.stops >= 1
    assert said[0].startswith("the program does not end, ")


def test_what_was_stopped_says_how_long_it_may_take_and_what_comes_next_may_take_as_long() -> None:
    watch = Watch(most_s=0.5)

    def fails() -> None:
        watch.began -= 60.0
        watch.stop()
        raise ValueError("terminated")

    def fails_early() -> None:
        watch.stop()
        raise ValueError("by itself")

    with pytest.raises(Overlong, match=r"a pass takes longer than the 0\.5 s that this device allows"):
        watch.timed("a pass", fails)
    assert watch.overdue_s() <= 0
    assert watch.timed("a pass", lambda: 5) == 5
    with pytest.raises(ValueError, match="by itself"):  # who looked has seen the pass before this one
        watch.timed("a pass", fails_early)
    with pytest.raises(ZeroDivisionError):
        watch.timed("a pass", lambda: 1 // 0)
