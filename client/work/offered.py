"""What a device was offered, kept beside its identity: a run is what it was when the device came, or the device leaves it.

A coordinator says anew at each start of a device what the run is, and what it asks may tell more of the data by other settings: without
noise, with another budget, as data of other classes, by another program. A run's coordinator keeps all of that over its restarts, whatever
is changed in `[server]` and `[tracking]`, so it is the same for whoever is honest. What may change is what does not decide what is computed:
the run's name as it is shown, what memory its work was measured to take, the coordinator's version and its clock.
"""

import json
from typing import Any

from zowarmup.client.errors import Final
from zowarmup.client.net.messages import Offer
from zowarmup.client.store.directory import OFFERED, StateDirectory, write_whole
from zowarmup.common.system.files import read_given


def require_offered(state: StateDirectory, offer: Offer) -> None:
    """Keep what a run is at the first time, and compare it from then on.

    Args:
        state: Where it is kept. One that is no member's is given to another run with its next offer.
        offer: As the coordinator says it now.

    Raises:
        Final: The run is another than it was, or the file is damaged.
    """
    file, now = state.path / OFFERED, _content(offer)
    try:
        kept = json.loads(read_given(file))
        if not isinstance(kept, dict):
            raise TypeError("no object")
        known = kept["run_id"] == offer.run_id
    except FileNotFoundError:
        known = False
    except OSError as error:
        raise Final(f"cannot read {file} ({error.strerror}): make it readable for this user") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Final(
            f"{file}, which says what this run was when this device came, is damaged: give another --state-dir to enrol anew"
        ) from None
    if not known:
        write_whole(file, json.dumps(now, indent=1).encode())
        return
    if found := _differences(kept, now):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Final(
            f"the coordinator offers another run than this device came for: {', '.join(found[:3])}{more}; a run's settings never change, so "
            "ask its operator; to take part in what it is now, enrol anew with another --state-dir, which knows nothing of what "
            f"this device has told ({file})"
        )


def _content(offer: Offer) -> dict[str, Any]:
    """All that decides what is computed, as JSON has it."""
    files = {part.name: part.sha256 for part in offer.artifacts} | {"program": offer.program_sha256.hex()}
    layout = json.loads(offer.layout.to_json())
    return {"run_id": offer.run_id, "spec": json.loads(offer.spec.to_json()), "layout": layout, "sha256": files}


def _differences(kept: Any, now: Any, name: str = "") -> list[str]:
    """What is not the same, each as the run file names it, with what it was and what it is."""
    if isinstance(kept, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*kept, *now})
            for difference in _differences(kept.get(key), now.get(key), f"{name}.{key}".removeprefix(".spec."))
        ]
    return [] if kept == now else [f"{name.removeprefix('.')} was {_shown(kept)} and is {_shown(now)}"]


def _shown(value: Any) -> str:
    said = "not there" if value is None else json.dumps(value)
    return said if len(said) <= 60 else f"{said[:60]}..."
