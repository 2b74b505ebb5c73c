"""What secure aggregation costs: bytes and time of one round, with every device and the coordinator's part in this process.

    python -m benchmarks.secure_aggregation --clients 20 100 --lost 0 0.2
    python -m benchmarks.secure_aggregation --clients 1000 --sampled 10

Every device does what it does in a run, but for what a model takes; bytes are those of the messages. Times are processor time, one core: seconds a
device, and of the coordinator's part of making the sum. With 1000 all of them take a quarter of an hour: `--sampled 10` carries out ten.
"""

import argparse
import secrets
import time

import numpy as np

from zowarmup.common.messages.codec import ask_to_wire, step_to_wire
from zowarmup.common.messages.masking import MaskingAsk, MaskingStep
from zowarmup.common.secure_aggregation.device import SEALED_BYTES, MaskingDevice, shares_for
from zowarmup.common.secure_aggregation.primitives import TAG_BYTES, signed, verification_key
from zowarmup.common.secure_aggregation.primitives import sealed as seal
from zowarmup.common.secure_aggregation.roster import ASKED_BYTES, KEYS_BYTES, Roster, RosterMember, Stage
from zowarmup.common.secure_aggregation.unmasking import unmasked


def one_round(count: int, lost: float, values: int, sampled: int) -> str:
    """A row: of a round of so many devices, a share of whom is lost after they have sent shares. Of so many (0: all) the part is
    carried out; what the others send is then what these need of them, and the sum means nothing, but takes as long."""
    identities = [secrets.token_bytes(32) for _ in range(count)]
    given = [np.frombuffer(secrets.token_bytes(8 * values), "<u8") for _ in range(count)]
    devices = [
        MaskingDevice("run", 1, f"client-{place:04}", 100, bytes(ASKED_BYTES), identity, secrets.token_bytes)
        for place, identity in enumerate(identities)
    ]
    members = tuple(
        RosterMember(f"client-{place:04}", 100, verification_key(identity), devices[place].keys)
        for place, identity in enumerate(identities)
    )
    roster = Roster("run", 1, members)
    everyone, survivors = list(range(count)), list(range(count - int(lost * count)))
    timed = survivors[: sampled or None]
    begun = time.process_time()
    sealed = {place: devices[place].shares(roster) for place in (timed if sampled else everyone)}
    device_s = (time.process_time() - begun) / len(sealed)
    if sampled:
        for place in everyone[len(timed) :]:
            devices[place]._roster, devices[place]._place = roster, place
            to_each = {
                other: sealed_for(devices[place]._share_key_for(other, outgoing=True))
                for other in timed
                if other != place
            }
            sealed[place] = b"".join(to_each.get(other, bytes(SEALED_BYTES)) for other in everyone if other != place)
    passed_on = {place: shares_for(place, sealed) for place in timed}
    begun = time.process_time()
    masked = {place: devices[place].masked(everyone, passed_on[place], given[place]) for place in timed}
    device_s += (time.process_time() - begun) / len(timed)
    statement = roster.statement(survivors)
    signatures = b"".join(signed(identities[place], statement) for place in survivors)
    begun = time.process_time()
    for place in timed:
        devices[place].signature(survivors)
    revealed = {place: devices[place].revealed(survivors, signatures) for place in timed[: roster.threshold]}
    device_s += (time.process_time() - begun) / len(timed)
    if sampled:
        # Of polynomials that are constant, each share is the seed: the coordinator adds up as many.
        text = b"".join(
            (devices[place]._own_seed if place in survivors else devices[place]._mask_seed) + b"\0"
            for place in everyone
        )
        masked = {place: masked.get(place, given[place].tobytes()) for place in survivors}
        revealed = dict.fromkeys(survivors[: roster.threshold], text)
    begun = time.process_time()
    total = unmasked(roster, everyone, masked, revealed)
    coordinator_s = time.process_time() - begun
    if not sampled:
        assert (total == np.sum([given[place] for place in survivors], axis=0, dtype=np.uint64)).all()
    up = KEYS_BYTES + sum(
        step_to_wire(MaskingStep(1, stage, body)).ByteSize()
        for stage, body in (
            (Stage.SHARES, sealed[0]),
            (Stage.MASKED, masked[0]),
            (Stage.SIGNED, signatures[:64]),
            (Stage.REVEALED, revealed[0]),
        )
    )
    asks = (
        MaskingAsk(1, Stage.SHARES, members=members, bounds=(1.0, 1.0)),
        MaskingAsk(1, Stage.MASKED, present=tuple(everyone), body=passed_on[0]),
        MaskingAsk(1, Stage.SIGNED, present=tuple(survivors)),
        MaskingAsk(1, Stage.REVEALED, present=tuple(survivors), body=signatures),
    )
    down = sum(ask_to_wire(ask).ByteSize() for ask in asks)
    return f"| {count} | {count - len(survivors)} | {up:,} | {down:,} | {device_s:.3f} | {coordinator_s:.2f} |"


def sealed_for(key: bytes) -> bytes:
    """What one device has for another, of which nobody looks at the shares."""
    return seal(key, bytes(SEALED_BYTES - TAG_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 100, 1000], help="devices in a round")
    parser.add_argument("--lost", type=float, nargs="+", default=[0.0, 0.2], help="shares of them that drop out")
    parser.add_argument(
        "--values", type=int, default=98, help="numbers that each adds to the sum (32 probes, 64 projections)"
    )
    parser.add_argument("--sampled", type=int, default=0, help="carry out the parts of so many devices only; 0: of all")
    arguments = parser.parse_args()
    print("| devices | lost | bytes up, each | bytes down, each | s a device | s of the coordinator |")
    print("|---|---|---|---|---|---|")
    for count in arguments.clients:
        for lost in arguments.lost:
            print(one_round(count, lost, arguments.values, arguments.sampled), flush=True)


if __name__ == "__main__":
    main()
