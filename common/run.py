"""What a run is: the settings that every participant must agree on, and those that only the coordinator needs.

The run file (TOML) is read into `RunFile` by `server.runfile`; the part that clients need travels to them as a
`ClientSpec`. Each type checks itself, so a run that exists is a run that can be carried out. Rates, rounds and sizes
follow Legate et al., arXiv 2509.03503 (`docs/method.md`).
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, TypeVar

PROTOCOL = 1

_T = TypeVar("_T")


def _require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def _require_clip(clip: float) -> None:
    _require(clip == 0 or 1 <= clip <= 1e6, "clip", clip, "0 (off) or 1 to 1e6")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """`name`: mlp, cnn, resnet18, vit or package.module:factory. `norm`: the normalisation of resnet18 (group is the
    paper's choice with FedAdam, batch with FedAvg). `weights`: a safetensors file to start from, else random from the
    run's seed."""

    name: str
    norm: Literal["group", "batch"] = "group"
    weights: str = ""

    def __post_init__(self) -> None:
        known = self.name in ("mlp", "cnn", "resnet18", "vit") or self.name.count(":") == 1
        _require(known, "model.name", self.name, '"mlp", "cnn", "resnet18", "vit" or "package.module:factory"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Who takes part in a phase's rounds and how long they last.

    A round opens when `minimum_clients` eligible clients are connected (0: `clients_per_round`). It needs at most
    `clients_per_round` contributions and draws a share of `over_selection` more clients than that. It closes when so
    many have contributed as it needs, or when `quorum` (a share of those) has and the rest are gone or the deadline is
    over: `deadline_s`, or what past rounds show to be enough where `learn_deadline`, but never more than `deadline_s`.
    """

    rounds: int
    clients_per_round: int = 10
    minimum_clients: int = 0
    quorum: float = 0.8
    deadline_s: float = 120.0
    learn_deadline: bool = True
    over_selection: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.rounds <= 1_000_000_000, "rounds", self.rounds, "0 to 1000000000")
        _require(self.clients_per_round >= 1, "clients_per_round", self.clients_per_round, "at least 1")
        _require(
            0 <= self.minimum_clients <= self.clients_per_round,
            "minimum_clients",
            self.minimum_clients,
            f"0 to clients_per_round ({self.clients_per_round})",
        )
        _require(0 < self.quorum <= 1, "quorum", self.quorum, "above 0 and at most 1")
        _require(0 < self.deadline_s <= 86400, "deadline_s", self.deadline_s, "above 0 and at most 86400 (a day)")
        _require(0 <= self.over_selection <= 10, "over_selection", self.over_selection, "0 to 10")


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Rounds):
    """FedAvg among the high tier: `epochs` of local SGD in batches of `batch` examples at `rate`; the server moves by
    `server_rate` times the example-weighted mean delta, in which a delta longer than `clip` times the round's median
    length is scaled down to that (0: none is)."""

    method: Literal["fedavg"] = "fedavg"
    epochs: int = 3
    batch: int = 64
    rate: float = 0.1
    server_rate: float = 1.0
    clip: float = 10.0

    def __post_init__(self) -> None:
        Rounds.__post_init__(self)
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(1 <= self.batch <= 65536, "batch", self.batch, "1 to 65536")
        _require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        _require(0 < self.server_rate <= 1000, "server_rate", self.server_rate, "above 0 and at most 1000")
        _require_clip(self.clip)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZerothOrder(Rounds):
    """Zeroth-order rounds among everyone.

    `probes` S directions a client and round, each on its own slice of the local data (`slices = "own"`) or on the
    whole of it (`"whole"`, the paper's way); `head_projections` K exact projections of the head's gradient; `eps` the
    probe's length and `tau` the paper's redundant scale of z (folded into eps and rate). `step`: "normalized" divides
    by the round's root-mean-square probe scalar and anneals the rate linearly to near zero; "raw" is the paper's.
    `weighting` of clients in the mean. `clip`: a scalar further than so many robust standard deviations from the
    round's median is moved to that bound (0: none is). `micro_batch`: examples a forward pass, which bounds a client's memory.
    `snapshot_every`: zeroth-order versions between snapshots on the coordinator's disk.
    """

    method: Literal["zowarmup"] = "zowarmup"
    probes: int = 32
    slices: Literal["own", "whole"] = "own"
    head_projections: int = 32
    eps: float = 1e-3
    tau: float = 1.0
    rate: float = 0.4
    step: Literal["normalized", "raw"] = "normalized"
    weighting: Literal["examples", "uniform"] = "examples"
    clip: float = 10.0
    micro_batch: int = 64
    snapshot_every: int = 50

    def __post_init__(self) -> None:
        Rounds.__post_init__(self)
        _require(1 <= self.probes <= 4096, "probes", self.probes, "1 to 4096")
        _require(0 <= self.head_projections <= 4096, "head_projections", self.head_projections, "0 to 4096")
        _require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")
        _require(0 < self.tau <= 1000, "tau", self.tau, "above 0 and at most 1000")
        _require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        _require_clip(self.clip)
        _require(1 <= self.micro_batch <= 65536, "micro_batch", self.micro_batch, "1 to 65536")
        _require(self.snapshot_every >= 1, "snapshot_every", self.snapshot_every, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """`data`: the held-out set (digits:test, npz:PATH or folder:PATH), evaluated at every `every`-th version, at the
    pivot and at the end."""

    data: str = "digits:test"
    every: int = 10

    def __post_init__(self) -> None:
        _require(self.every >= 1, "every", self.every, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """`address` to listen on; `keep_snapshots`: how many of the newest to keep on disk beside the pivot's and the
    last; `abandoned_limit`: so many abandoned rounds in a row pause the run.

    `enrolment`: whether a device needs an invitation ("invited") or not ("open"); empty: open on loopback, invited on
    any other address. `tls_certificate` and `tls_key` are PEM files, and `client_ca` one with the authority whose
    certificates clients must show; empty: none. `spool_mb`: what uploads that are not yet part of a version may take
    on disk. `messages_per_second`: what one client may send, beyond one message for each Work that it is given.
    """

    address: str = "127.0.0.1:7070"
    keep_snapshots: int = 3
    abandoned_limit: int = 5
    enrolment: Literal["open", "invited", ""] = ""
    tls_certificate: str = ""
    tls_key: str = ""
    client_ca: str = ""
    spool_mb: int = 4096
    messages_per_second: float = 10.0

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        valid = bool(host) and port.isascii() and port.isdigit() and int(port) < 65536
        _require(valid, "address", self.address, '"HOST:PORT", such as "0.0.0.0:7070"')
        _require(self.keep_snapshots >= 1, "keep_snapshots", self.keep_snapshots, "at least 1")
        _require(self.abandoned_limit >= 1, "abandoned_limit", self.abandoned_limit, "at least 1")
        _require(self.enrolment in ("open", "invited", ""), "enrolment", self.enrolment, '"open", "invited" or ""')
        both = bool(self.tls_certificate) == bool(self.tls_key)
        _require(both, "tls_key", self.tls_key, "given together with tls_certificate, or neither")
        pointless = bool(self.client_ca) and not self.tls_certificate
        _require(not pointless, "client_ca", self.client_ca, "empty where there is no tls_certificate")
        _require(1 <= self.spool_mb <= 1 << 30, "spool_mb", self.spool_mb, "1 to 2^30")
        rate = self.messages_per_second
        _require(0 < rate <= 1e6, "messages_per_second", rate, "above 0 and at most 1e6")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFile:
    """All of one run, as its TOML file says it."""

    name: str
    seed: int = 0
    model: Model
    warmup: WarmUp
    zeroth_order: ZerothOrder
    evaluation: Evaluation = field(default_factory=Evaluation)
    server: Server = field(default_factory=Server)

    def __post_init__(self) -> None:
        _require(0 < len(self.name) <= 64, "name", self.name, "1 to 64 characters")
        _require(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSpec:
    """What a client must know of a run: the model's name, the shape (without the batch axis) and number of classes of
    its data, and how each phase works."""

    model: Model
    input_shape: tuple[int, ...]
    classes: int
    warmup: WarmUp
    zeroth_order: ZerothOrder

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError naming the field where the text is not a ClientSpec."""
        try:
            raw = json.loads(text)
            return cls(
                model=_build(Model, raw["model"]),
                input_shape=tuple(raw["input_shape"]),
                classes=int(raw["classes"]),
                warmup=_build(WarmUp, raw["warmup"]),
                zeroth_order=_build(ZerothOrder, raw["zeroth_order"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"run spec: {error}") from error


def _build(cls: type[_T], raw: dict[str, Any]) -> _T:
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := set(raw) - known:
        raise ValueError(f"run spec: {cls.__name__} has no field {min(unknown)!r}")
    return cls(**raw)
