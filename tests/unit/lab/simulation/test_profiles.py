"""Devices as profiles describe them: every delay, drop-out and absence by its closed form."""

import math
import tomllib
from collections import Counter

import pytest

from zowarmup.lab.simulation.profiles import BUILT_IN, PI_ZERO, Mix, Profile, parse

HOUR = 3600.0


def parsed(text: str) -> Mix:
    return parse(tomllib.loads(text))


def test_a_delay_is_what_the_device_takes_beyond_its_host() -> None:
    slow = Profile(name="slow", slowdown=20.0, up_kbit_s=8.0, down_kbit_s=80.0)
    # 19 more times 0.1 s of computing, 500 bytes at 1 kB/s up, 20 kB at 10 kB/s down.
    assert slow.delay_s(0.1, 500, 20_000) == pytest.approx(1.9 + 0.5 + 2.0)
    assert Profile(name="host").delay_s(3.0, 1 << 30, 1 << 30) == 0.0


def test_drop_outs_follow_from_seed_client_and_round() -> None:
    shaky = Profile(name="shaky", drop_out=0.25)
    drops = [[shaky.drops(7, client, round) for round in range(1, 101)] for client in range(1, 41)]
    assert drops == [[shaky.drops(7, client, round) for round in range(1, 101)] for client in range(1, 41)]
    count = sum(map(sum, drops))
    # 4000 draws of probability 1/4: 1000 expected, standard deviation 27.
    assert abs(count - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)
    assert len(set(map(tuple, drops))) == 40, "no two clients drop out of the same rounds"
    assert drops[0] != [shaky.drops(8, 1, round) for round in range(1, 101)]
    assert not any(Profile(name="sure").drops(7, 1, round) for round in range(1, 100))
    assert all(Profile(name="gone", drop_out=1.0).drops(7, 1, round) for round in range(1, 100))


@pytest.mark.parametrize(
    ("hour", "absent", "present"),
    [(21.0, 1.0, 0.0), (22.0, 0.0, 9.0), (23.5, 0.0, 7.5), (6.0, 0.0, 1.0), (7.0, 15.0, 0.0), (12.0, 10.0, 0.0)],
)
def test_hours_may_go_round_midnight(hour: float, absent: float, present: float) -> None:
    night = Profile(name="night", available=("22:00-07:00",))
    for day in (0, 20_000):
        now = (24 * day + hour) * HOUR
        assert night.absent_s(now) == pytest.approx(absent * HOUR, abs=1e-3)
        assert night.present_s(now) == pytest.approx(present * HOUR, abs=1e-3)


def test_windows_that_meet_are_one_and_days_may_be_short() -> None:
    meeting = Profile(name="both", available=("08:00-12:00", "12:00-18:00"))
    assert meeting.present_s(9 * HOUR) == pytest.approx(9 * HOUR)
    assert Profile(name="all", available=("00:00-12:00", "12:00-24:00")).present_s(5 * HOUR) == math.inf
    assert Profile(name="always").present_s(0) == math.inf
    assert Profile(name="always").absent_s(0) == 0
    # A day of 24 s: an hour is a second.
    assert meeting.absent_s(20.0, day_s=24.0) == pytest.approx(12.0)
    assert meeting.present_s(24.0 + 17.0, day_s=24.0) == pytest.approx(1.0)


def test_shares_are_as_exact_as_whole_clients_allow() -> None:
    mix = parsed('[[profile]]\nlike = "pi-zero"\nshare = 7\n[[profile]]\nname = "desk"\nshare = 3\n')
    dealt = mix.deal(1, 1000)
    assert Counter(profile.name for profile in dealt) == {"pi-zero": 700, "desk": 300}
    assert dealt == mix.deal(1, 1000)
    assert dealt != mix.deal(2, 1000)
    assert Counter(profile.name for profile in mix.deal(1, 5)) == {"pi-zero": 4, "desk": 1}
    assert len({profile.name for profile in dealt[:20]}) == 2, "not the first ones one thing and the last another"
    assert Mix().deal(0, 3) == (Profile(name="host"),) * 3


def test_a_file_may_change_what_is_built_in() -> None:
    (profile,) = parsed('day_s = 60\n[[profile]]\nlike = "pi-zero"\nname = "mine"\nslowdown = 3\n').profiles
    assert (profile.name, profile.slowdown, profile.drop_out) == ("mine", 3, PI_ZERO.drop_out)
    assert set(BUILT_IN) == {"pi-zero", "pi-4", "phone"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "at least one"),
        ("[[profile]]", "name is missing"),
        ("profile = 3", "at least one"),
        ("[[profile]]\nlike = []", "like = []: must be pi-zero"),
        ('[[profile]]\nname = "a"\nspeed = 1', "speed is not known"),
        ('[[profile]]\nlike = "cray"', "like = 'cray': must be pi-zero"),
        ('[[profile]]\nname = "a"\ndrop_out = 1.5', "drop_out = 1.5: must be 0 to 1"),
        ('[[profile]]\nname = "a"\nslowdown = "2"', "slowdown = '2': must be 1"),
        ('[[profile]]\nname = "a"\navailable = ["25:00-07:00"]', "must be hours of the day"),
        ('[[profile]]\nname = "a"\navailable = "22:00-07:00"', "must be a list"),
        ('[[profile]]\nname = "a"\nshare = 0', "a share above 0"),
        ('day_s = 0\n[[profile]]\nname = "a"', "day_s = 0"),
        ('days = 1\n[[profile]]\nname = "a"', "days is not known"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parsed(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
