"""What a coordinator hears of an error: of a private run nothing that follows from the data, of any run no other code's words."""

import numpy as np
import pytest

from zowarmup.client.errors import PRIVATELY, Final, Limit, Setback, told_of
from zowarmup.common.messages.values import Scalars

SECRET = "my secret"


def raised_by_numpy() -> Exception:
    with pytest.raises(ValueError, match=SECRET) as caught:
        np.array([SECRET]).astype(np.float32)
    return caught.value


def raised_by_ours() -> Exception:
    with pytest.raises(ValueError, match="not finite") as caught:
        Scalars(1, (float("nan"),), ())
    return caught.value


def raised_elsewhere() -> Exception:
    with pytest.raises(KeyError) as caught:
        dict[str, int]()[SECRET]
    return caught.value


def test_what_is_told() -> None:
    own = raised_by_ours()
    cases: list[tuple[Exception, str, str]] = [
        (Limit("the budget is used up"), "the budget is used up", "the budget is used up"),
        (Setback("the day's probes", told="the day's probes"), "the day's probes", "the day's probes"),
        (Setback("too long"), "too long", PRIVATELY),
        (Final("no such model"), "no such model", PRIVATELY),
        (Final(f"cannot be read: {SECRET}", "cannot be read"), "cannot be read", "cannot be read"),
        (own, str(own), PRIVATELY),
        (raised_by_numpy(), "ValueError (", PRIVATELY),
        (raised_elsewhere(), "KeyError (", PRIVATELY),
    ]
    for error, open_run, private in cases:
        assert told_of(error, private=False, longest=200).startswith(open_run)
        assert told_of(error, private=True, longest=200) == private
        assert SECRET not in told_of(error, private=False, longest=200)
