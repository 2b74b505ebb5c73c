"""The settings of a run: those that all participants must agree on, and those that only the coordinator needs.

The run file (TOML) is read into `RunFile` by `server.setup.run_file`; the part that clients need travels to them as a
`ClientSpec`. Each type checks itself, so a run that exists is a run that can be carried out. Rates, rounds and sizes
follow Legate et al., arXiv 2509.03503 (`docs/method.md`).
"""

import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self

from zowarmup.common.algorithms import SECTIONS, settings_class
from zowarmup.common.algorithms.settings import Rounds, WarmUp, ZerothOrder, require
from zowarmup.common.lora import Lora
from zowarmup.common.messages.values import Tier
from zowarmup.common.plugin import is_plugin, require_allowed
from zowarmup.common.prefix import prefix_length
from zowarmup.common.settings.addresses import DEFAULT_ADDRESS, host_and_port
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.language import PREDICTING, Language, check_language
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.store import StoreAddress
from zowarmup.common.settings.text import Text
from zowarmup.common.settings.tracking import Tracking
from zowarmup.common.tasks import DEFAULT, TASKS, task_class
from zowarmup.common.tasks.multiple_choice import MULTIPLE_CHOICE
from zowarmup.common.tasks.protocol import Task
from zowarmup.common.untrusted import strictly

PROTOCOL = 2
VERSION = "0.1.0"
"""Of the package, too, which pyproject.toml takes from here: to read it from what is installed costs a device 2 MB."""
SOFTWARE = f"zowarmup {VERSION}"

PRETRAINED = "hf:"
"""What the name of a model begins with that is a directory of Hugging Face's form."""
BASES = ("float32", "bfloat16", "int8")
"""As `base` under [model] says it; the first is the default, and that of a model that is not pretrained."""
WEB_AUTO = "auto"
WEB_PORTS = range(7072, 7092)
"""Of the loopback, where the live page is unless the run file says otherwise: a port for each run of a machine, and none that
systems give to connections."""
BUILT_IN = ("mlp", "cnn", "cnn1d", "resnet8", "resnet18", "vit")
"""The models that every device with torch can build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """`name`: one of BUILT_IN, torchvision:NAME, hf:DIR or package.module:factory. `norm`: the normalisation of the built-in residual
    networks (group is the paper's choice with FedAdam, batch with FedAvg). `weights`: a file to start from, safetensors or a
    state dict of torch's (.pth, .pt), else random from the run's seed. `task`: what it is trained for, one of `tasks.TASKS` or package.module:Task.
    `base`: in what the constants of a pretrained model are kept, float32 or, in half or a quarter of the bytes, bfloat16 or int8 (`models.narrow`)."""

    name: str
    task: str = DEFAULT
    norm: Literal["group", "batch"] = "group"
    weights: str = ""
    base: Literal["float32", "bfloat16", "int8"] = "float32"

    def __post_init__(self) -> None:
        known = self.name in BUILT_IN or is_plugin(self.name) or self.pretrained
        built_in = ", ".join(f'"{name}"' for name in BUILT_IN)
        require(known, "model.name", self.name, f'{built_in}, "torchvision:NAME", "hf:DIR" or "package.module:factory"')
        bases = BASES if self.pretrained else BASES[:1]
        allowed = ", ".join(f'"{base}"' for base in bases) + (
            "" if self.pretrained else " where the model is not pretrained"
        )
        require(self.base in bases, "model.base", self.base, allowed)
        tasks = ", ".join(f'"{task}"' for task in TASKS)
        require(
            self.task in TASKS or is_plugin(self.task), "model.task", self.task, f'{tasks} or "package.module:Task"'
        )

    @property
    def pretrained(self) -> bool:
        """Whether it is a directory with a pretrained model, of which nothing but what `zeroth_order.train` says is trained."""
        return self.name.startswith(PRETRAINED)

    @property
    def public(self) -> Self:
        """The part that participants learn: without paths, which are the coordinator's own business."""
        name = (
            PRETRAINED + self.name.rstrip("/").rpartition("/")[2].removeprefix(PRETRAINED)
            if self.pretrained
            else self.name
        )
        return replace(self, weights="", name=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """`data`: the held-out set (digits:test, digits:validation, npz:PATH, folder:PATH, cifar10:PATH:test and what else
    `data.spec` knows), evaluated at every `every`-th version, at the pivot and at the end, and after every round of a
    warm-up that ends by itself (`pivot = "auto"`)."""

    data: str
    every: int = 10

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """The guard on progress (`server.guard`). A version whose held-out loss is not finite, or more than `factor` times
    the lowest so far (0: the guard is off) with a primary metric well worse than the best, or which says the same of every
    example after one that had learnt, is rejected: the run goes back to the last good version and halves its learning rate.
    It does so `rollbacks` times; the next time it goes back once more and gives up."""

    factor: float = 10.0
    rollbacks: int = 5

    def __post_init__(self) -> None:
        ok = self.factor == 0 or 1.1 <= self.factor <= 1e6
        require(ok, "factor", self.factor, "0 (off) or 1.1 to 1e6")
        require(0 <= self.rollbacks <= 30, "rollbacks", self.rollbacks, "0 to 30")

    @property
    def on(self) -> bool:
        return self.factor > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """`address` to listen on; `keep_snapshots`: how many of the newest to keep on disk beside the pivot's;
    `abandoned_limit`: this many abandoned rounds in a row pause the run.

    `enrolment`: whether a device needs an invitation ("invited") or not ("open"); empty: open on loopback, invited on
    any other address. `tls_certificate` and `tls_key` are PEM files, and `client_ca` one with the authority whose
    certificates clients must show; empty: none. `uploads_mb`: what uploads that are not yet part of a version may take
    on disk. `messages_per_second`: what one client may send, beyond what its work takes.

    `metrics_address`: where Prometheus finds /metrics; empty: nowhere. It is HTTPS where there is a certificate, unless
    `metrics_plaintext`, which also allows plain HTTP on an address that is not loopback. `metrics_user` and the first
    line of `metrics_password_file` are asked for where they are given.

    `health_address`: where gRPC's health service answers in plain text, and nothing else does, for probes that have no
    certificate; empty: only on `address`. `reflection`: whether callers may ask at `address` which calls there are, as they
    may on loopback anyway.

    `web_address`: where browsers find the live page; "auto": on loopback, at the first of WEB_PORTS that is free; empty:
    nowhere. `web_password_file`: a file whose first line opens the page, and nothing else, where the page asks for a
    password; the operator's credential always does.

    `store`: a PostgreSQL database in which the run is kept and which its coordinators share, as a URL without a password; empty: the
    data directory. `lease_s`: where several coordinators share a store, so many seconds after the one that leads was last heard of another leads.
    """

    address: str = DEFAULT_ADDRESS
    keep_snapshots: int = 3
    abandoned_limit: int = 5
    enrolment: Literal["open", "invited", ""] = ""
    tls_certificate: str = ""
    tls_key: str = ""
    client_ca: str = ""
    uploads_mb: int = 4096
    messages_per_second: float = 10.0
    metrics_address: str = ""
    metrics_plaintext: bool = False
    metrics_user: str = ""
    metrics_password_file: str = ""
    health_address: str = ""
    reflection: bool = False
    web_address: str = WEB_AUTO
    web_password_file: str = ""
    store: str = ""
    lease_s: float = 3.0

    def __post_init__(self) -> None:
        require(_is_address(self.address), "address", self.address, '"HOST:PORT", such as "0.0.0.0:7070"')
        require(self.keep_snapshots >= 1, "keep_snapshots", self.keep_snapshots, "at least 1")
        require(self.abandoned_limit >= 1, "abandoned_limit", self.abandoned_limit, "at least 1")
        require(self.enrolment in ("open", "invited", ""), "enrolment", self.enrolment, '"open", "invited" or ""')
        both = bool(self.tls_certificate) == bool(self.tls_key)
        require(both, "tls_key", self.tls_key, "given together with tls_certificate, or neither")
        pointless = bool(self.client_ca) and not self.tls_certificate
        require(not pointless, "client_ca", self.client_ca, "empty where there is no tls_certificate")
        require(1 <= self.uploads_mb <= 1 << 30, "uploads_mb", self.uploads_mb, "1 to 2^30")
        rate = self.messages_per_second
        require(0 < rate <= 1e6, "messages_per_second", rate, "above 0 and at most 1e6")
        if self.store:
            try:
                StoreAddress.of(self.store)
            except ValueError as error:
                raise ValueError(f"store: {error}") from None  # which never repeats what may hold a password
        require(0.5 <= self.lease_s <= 600, "lease_s", self.lease_s, "0.5 to 600 s")
        for name, usual in (("metrics_address", 9464), ("health_address", 7071)):
            given = getattr(self, name)
            allowed = f'"HOST:PORT", such as "127.0.0.1:{usual}", or ""'
            require(not given or _is_address(given), name, given, allowed)
        web = self.web_address
        allowed = f'"HOST:PORT", such as "0.0.0.0:{WEB_PORTS[0]}", "{WEB_AUTO}" or ""'
        require(web in ("", WEB_AUTO) or _is_address(web), "web_address", web, allowed)
        named, file = self.metrics_user, self.metrics_password_file
        require(":" not in named, "metrics_user", named, "a name without a colon")
        require(
            bool(named) == bool(file), "metrics_password_file", file, "given together with metrics_user, or neither"
        )


def _is_address(text: str) -> bool:
    try:
        host_and_port(text, listening=True)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFile:
    """All of one run, as its TOML file says it.

    Args:
        seed: Of the initial weights and of the directions that the whole run shares.
        draws: What decides who takes part in a round, and along which directions: "secret", random bits that only the
            coordinator has, or "seed", so that the same clients make the same run again. Whoever knows the seed can then
            compute all of it beforehand, and a device can choose a name that is drawn more often.
    """

    name: str
    seed: int = 0
    draws: Literal["secret", "seed"] = "secret"
    model: Model
    warmup: WarmUp
    zeroth_order: ZerothOrder
    evaluation: Evaluation
    text: Text = field(default_factory=Text)
    guard: Guard = field(default_factory=Guard)
    server: Server = field(default_factory=Server)
    tracking: Tracking = field(default_factory=Tracking)
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        require(0 < len(self.name) <= 64 and self.name.isprintable(), "name", self.name, "1 to 64 printable characters")
        require(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        require(self.draws in ("secret", "seed"), "draws", self.draws, '"secret" or "seed"')
        for section, settings in (("warmup", self.warmup), ("zeroth_order", self.zeroth_order)):
            own = SECTIONS[section].get(settings.algorithm, type(settings)) is type(settings)
            require(own, f"{section}.algorithm", settings.algorithm, f"that of {type(settings).__name__}")
        moved, cut = self.zeroth_order.moved, self.zeroth_order.cut_at
        check_language(self.model.task, self.model.pretrained, moved, cut, self.text.verbalizers)
        self.warmup.check_model(self.model.name, self.model.norm)
        self.zeroth_order.check_model(self.model.name, self.model.norm)
        self.zeroth_order.check_warm_up(self.warmup)
        self.privacy.check_run(self.warmup, self.zeroth_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSpec:
    """What a client must know of a run: the model's name and task, what its targets and inputs mean, how each phase
    works, what becomes of texts, how what devices send is noised, the architecture of a pretrained language model, and the stream of the directions that the whole run shares (`sampling.pool_seed`)."""

    model: Model
    card: DataCard
    warmup: WarmUp
    zeroth_order: ZerothOrder
    text: Text = field(default_factory=Text)
    architecture: Architecture | None = None
    pool_seed: int = 0
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        self.privacy.check_run(self.warmup, self.zeroth_order)

    @classmethod
    def of(cls, run: RunFile, card: DataCard, pool_seed: int, architecture: Architecture | None = None) -> Self:
        """The spec of a run.

        Args:
            run: The run; its model is taken as it stands, with its paths.
            card: Of its held-out set.
            pool_seed: As the field.
            architecture: As the field.
        """
        return cls(
            model=run.model,
            card=card,
            warmup=run.warmup,
            zeroth_order=run.zeroth_order,
            text=run.text,
            architecture=architecture,
            pool_seed=pool_seed,
            privacy=run.privacy,
        )

    @property
    def phases(self) -> tuple[Rounds, ...]:
        """The settings of the run's phases, in their order."""
        return self.warmup, self.zeroth_order

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch axis."""
        return self.card.shape

    @property
    def task(self) -> Task:
        """What the model is trained for. Raises ValueError where there is no such task, or the data is not what it needs."""
        return task_class(self.model.task)(self.card)

    @property
    def language(self) -> Language | None:
        """What is built of the language model; None where the model is none."""
        if self.architecture is None:
            return None
        lora = Lora.of(self.zeroth_order.moved)
        return Language(
            architecture=self.architecture,
            lora=lora,
            prefix=prefix_length(self.zeroth_order.moved),
            last_token=bool(self.text.verbalizers),
            completes=self.model.task in PREDICTING,
            choices=self.card.classes if self.model.task == MULTIPLE_CHOICE else 0,
            cut=self.zeroth_order.cut_at,
        )

    @property
    def exact_head(self) -> bool:
        """Whether the head's gradient is to be known exactly, rather than probed with the rest of what moves."""
        return self.task.exact_head and not self.zeroth_order.probes_head

    @property
    def whitening(self) -> int:
        """R, how many directions of what the head reads are scaled apart from the pivot on; 0 where none are, and where the
        warm-up trains submodels, of which nobody knows the directions."""
        whitens = self.zeroth_order.rounds > 0 and not self.warmup.trains(Tier.LOW)
        return self.zeroth_order.whitens if whitens else 0

    def to_json(self) -> str:
        """Numbers of 64 bits are strings, as protobuf's JSON has them: many readers take a number for a float64.
        `input_shape` and `classes` are the card's, for clients that read no more of it."""
        return json.dumps(
            {
                "model": asdict(self.model),
                "input_shape": self.input_shape,
                "classes": self.card.classes,
                "card": asdict(self.card),
                "warmup": asdict(self.warmup),
                "zeroth_order": asdict(self.zeroth_order),
                "pool_seed": str(self.pool_seed),
            }
            | ({"text": asdict(self.text)} if self.card.element == "token" else {})
            | ({"architecture": asdict(self.architecture)} if self.architecture else {})
            | ({"privacy": asdict(self.privacy)} if self.privacy != Privacy() else {}),
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str, allowed: Collection[str] | None = ()) -> Self:
        """Raises ValueError naming the field where the text is not a ClientSpec. `allowed`: the algorithms and tasks
        outside this package whose code may be imported; NotAllowed is raised with all others that it names."""
        try:
            raw = json.loads(text)
        except RecursionError as error:
            raise ValueError(f"run spec: {error}") from error
        if not isinstance(raw, dict):
            raise ValueError("run spec: it is not an object")  # noqa: TRY004
        seed = raw.get("pool_seed")
        if not isinstance(seed, str) or not re.fullmatch(r"[0-9]{1,20}", seed) or int(seed) >= 1 << 64:
            raise ValueError(f"run spec: pool_seed = {ascii(seed)[:60]}: must be a string of digits below 2^64")
        # The card has these, too; they are said again for clients that read no more of it.
        rest = {name: value for name, value in raw.items() if name not in ("input_shape", "classes", *SECTIONS)}
        model = raw.get("model")
        named = [("algorithm", part.get("algorithm")) for part in map(raw.get, SECTIONS) if isinstance(part, dict)]
        named += [("task", model.get("task"))] if isinstance(model, dict) else []
        require_allowed(named, allowed)
        made = {section: _settings(section, raw[section], allowed) for section in SECTIONS if section in raw}
        spec = strictly(cls, {**rest, "pool_seed": int(seed)}, "run spec", made)
        try:
            task_class(spec.model.task, allowed)(spec.card)
        except ValueError as error:
            raise ValueError(f"run spec: {error}") from None
        return spec


def _settings(section: str, raw: object, allowed: Collection[str] | None) -> WarmUp | ZerothOrder:
    """The settings of a section, of the class that its `algorithm` names."""
    try:
        cls = settings_class(section, raw.get("algorithm") if isinstance(raw, dict) else None, allowed)
    except ValueError as error:
        raise ValueError(f"run spec: {section}: {error}") from None
    return strictly(cls, raw, f"run spec: {section}")
