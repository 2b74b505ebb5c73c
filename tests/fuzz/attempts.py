"""Odd command lines in odd surroundings, for hypothesis to draw: what a person may mistype, misplace, unset or damage."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.data_files import TABLE, archive
from zowarmup.common.settings.addresses import addresses_in, is_loopback

SERVER, CLIENT, COMMAND = "zowarmup-server", "zowarmup-client", "zowarmup"
NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""
FOLDER, LINK, PIPE, RUN = b"<folder>", b"<link to itself>", b"<pipe>", b"<run>"
AUTHORITY, CERTIFICATE, KEY = b"<authority>", b"<certificate>", b"<key>"
"""In place of a file's content: what it is instead."""


@dataclass(frozen=True)
class Attempt:
    """`files`: what lies in the working directory, by name. `output`: where standard output goes. In `environment`, HERE
    stands for that directory."""

    program: str
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    output: str = "kept"
    encoding: str = "utf-8"


ODD = (
    "", " ", "-", "--", "-1", "0", "nan", "inf", "1e999", "9" * 30, "..", "~", "~nobody", "a" * 300, "\udcff", "ünï", "é",
    "\u202ex", "\x1b[2J", "%s", "{x}", "$(x)", "a\nb", "a,b", "x=y", "[1]", "none", "true", "İ", "\uff11", "1_0", "+1", "0x1",
)  # fmt: skip
odd = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)


def rarely(one_in: int) -> st.SearchStrategy[bool]:
    """True once in so many draws. (hypothesis draws the ends of a range more often than the rest.)"""
    return st.integers(0, one_in - 1).map(lambda drawn: drawn == one_in // 2)


def mostly(right: st.SearchStrategy[str], wrong: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """With more that is wrong a command would get nowhere."""
    return rarely(7).flatmap(lambda drawn: wrong if drawn else right)


NAMES = (
    "run.toml",
    "table.toml",
    "mix.toml",
    "x.npz",
    "x.csv",
    "images",
    "batches",
    "pem",
    "key",
    "data",
    "state",
    "nothing",
)
inside = st.sampled_from(NAMES) | odd.map(lambda text: text.replace("/", "_"))
# A test may run as root: these can be neither made nor filled by anybody.
nowhere = st.sampled_from(("/dev/full", "/dev/null", "/dev/null/x", "/proc/x", "/sys/x", "data/../x", "images/x/y"))
path = inside | nowhere


def _nowhere(address: str) -> str:
    """Nothing on the network is asked for its name."""
    try:
        given = addresses_in(address)
    except ValueError:
        return address
    return address if all(is_loopback(one) and one.endswith(":1") for one in given) else NOBODY


address = st.one_of(
    st.just(NOBODY),
    st.just(NOBODY),
    st.just(NOBODY),
    st.sampled_from(
        (
            "localhost:1",
            "[::1]:1",
            "127.0.0.1:1,localhost:1",
            "[::1]:1,",
            "127.0.0.1",
            ":1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "http://x:1",
            "x:1/y",
        )
    ),
    st.tuples(odd, odd).map(":".join),
    odd,
).map(_nowhere)


# Data.
def _options(names: Sequence[str]) -> st.SearchStrategy[str]:
    value = st.sampled_from(("0.1", "1", "2", "0", "32", "squash", "sequence", "kind", "crop-flip", "validation")) | odd
    one = st.tuples(st.sampled_from(names) | odd, value).map("=".join)
    return st.lists(one, max_size=3).map(lambda found: "".join(f",{option}" for option in found))


_where = st.sampled_from(("x.npz", "x.csv", "images", "batches", "pipe")) | path
_which = mostly(
    st.sampled_from(("1/2", "2/2", "train", "test", "validation")),
    st.sampled_from(("3/2", "0/0", "1/99999999999")) | odd,
)
data = st.one_of(
    st.tuples(st.just("digits:"), _which, _options(("alpha", "seed", "without"))).map("".join),
    st.tuples(st.just("npz:"), _where, _options(("kind",))).map("".join),
    st.tuples(st.just("csv:"), _where, _options(("label",))).map("".join),
    st.tuples(st.just("csv:x.csv,label="), st.sampled_from(("kind", "a", "b", "")) | odd).map("".join),
    st.tuples(st.just("folder:"), _where, _options(("size", "channels", "fit"))).map("".join),
    st.tuples(st.sampled_from(("cifar10:", "cifar100:", "imagenet32:")), _where, st.just(":"), _which).map("".join),
    odd,
)
_dtypes = st.sampled_from(["u1", "i1", "i8", "u8", "f2", "f4", "f8", "c8", "b1", "S3", "U3", "M8[s]", "O", ">f4"])
_shapes = st.sampled_from(((), (0,), (3,), (3, 4), (3, 4, 2), (3, 2, 4, 4), (3, 0), (1, 1, 1, 1, 1), (2, 4)))


def _array(kind: str, shape: tuple[int, ...], fill: float) -> Any:
    whole = np.zeros(shape, np.dtype(kind))
    if whole.dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            whole[...] = np.float64(fill).astype(whole.dtype)
    return whole


arrays = st.builds(_array, _dtypes, _shapes, st.sampled_from((0, 1, -1, 2, 255, 1e30, np.nan, np.inf)))


def _archive(members: dict[str, Any], labels: bool) -> bytes:
    file = io.BytesIO()
    save: Any = np.savez
    save(file, **({"y": np.array([0, 1, 1])} if labels else {}), **members)
    return file.getvalue()


archives = st.builds(
    _archive, st.dictionaries(st.sampled_from(("x", "x ", "z")), arrays, max_size=2), st.just(True)
) | (st.builds(_archive, st.dictionaries(st.sampled_from(("x", "y")), arrays, max_size=2), st.just(False)))


def _picture(mode: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


pictures = st.builds(
    _picture, st.sampled_from(("RGB", "L", "1", "P", "RGBA", "I;16")), st.sampled_from(((1, 1), (4, 4), (7, 5)))
)
damaged = st.one_of(st.binary(max_size=40), st.sampled_from((b"", FOLDER, LINK, PIPE, b"\0" * 99, b"[" * 9999)))


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Folders of images, for `folder:images`."""
    found = {}
    for number in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(("a", "b", "B", "é", "e\u0301", "__MACOSX", ".git", "a b", "\udcff")))
        file = draw(st.sampled_from(("x.png", "X.PNG", "y.jpg", "Thumbs.db", ".x.png", "notes.txt", "deep/x.png")))
        found[f"images/{name}/{number}{file}" if draw(st.booleans()) else f"images/{name}/{file}"] = draw(
            pictures | damaged
        )
    if draw(st.booleans()):
        found["images/loose.png"] = draw(pictures | damaged)
    return found


# Files of settings.
RUN_FILE: dict[str, Any] = {
    "name": "x",
    "model": {"name": "mlp"},
    "warmup": {"rounds": 1, "clients_per_round": 1},
    "zeroth_order": {"rounds": 1, "clients_per_round": 1, "rate": 0.1},
    "evaluation": {"data": "digits:test"},
    "server": {"address": "127.0.0.1:0"},
}
TABLE_FILE: dict[str, Any] = {
    "title": "x",
    "data": "digits",
    "clients": 4,
    "high_percent": [50],
    "seeds": [1],
    "method": [{"name": "zowarmup"}],
    **{name: RUN_FILE[name] for name in ("model", "warmup", "zeroth_order", "evaluation")},
}
MIX_FILE: dict[str, Any] = {"day_s": 60, "profile": [{"like": "pi-zero"}, {"name": "desk", "share": 2}]}
POLICY_FILE: dict[str, Any] = {"models": ["mlp"], "program_mb": 16, "probes_per_day": 100, "probes": 10}
_SETTINGS = [
    "models",
    "program_mb",
    "snapshot_mb",
    "forward_s",
    "probes_per_day",
    "name",
    "seed",
    "model",
    "warmup",
    "zeroth_order",
    "evaluation",
    "guard",
    "server",
    "rounds",
    "clients_per_round",
    "minimum_clients",
    "rate",
    "quorum",
    "data",
    "deadline_s",
    "algorithm",
    "method",
    "task",
    "weights",
    "norm",
    "step",
    "pool",
    "probes",
    "eps",
    "address",
    "tls_certificate",
    "tls_key",
    "client_ca",
    "metrics_address",
    "factor",
    "health_address",
    "metrics_user",
    "metrics_password_file",
    "web_address",
    "web_password_file",
    "uploads_mb",
    "enrolment",
    "title",
    "clients",
    "high_percent",
    "seeds",
    "tune",
    "watched",
    "plots",
    "participants",
    "like",
    "share",
    "slowdown",
    "drop_out",
    "available",
    "profile",
    "day_s",
    "every",
]
_plain = st.one_of(
    st.integers(-2, 3),
    st.sampled_from((2**31, 2**63, 10**30, -(2**70), 1 << 300)),
    st.floats(),
    st.booleans(),
    odd.filter(lambda text: "\udcff" not in text),
    data.filter(lambda text: "\udcff" not in text),
    st.sampled_from(
        ("continue", "auto", "raw", "adam", "heterofl", "decomfl", "fedkseed", "invited", "pem", "x:y", "\0")
    ),
)
_value = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_SETTINGS), inner, max_size=2),
    max_leaves=4,
)


def _toml(value: Any) -> str:
    """Also tables within, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _key(value) if isinstance(value, str) else repr(value)


def _key(text: str) -> str:
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(plain) + '"'


@st.composite
def settings(draw: st.DrawFn, base: dict[str, Any]) -> bytes:
    """A file that is nearly right, or bytes."""
    if draw(rarely(12)):
        return draw(damaged)
    root = {name: dict(inner) if isinstance(inner, dict) else inner for name, inner in base.items()}
    for _ in range(draw(st.sampled_from((0, 1, 0, 2, 3)))):
        within = draw(st.sampled_from([root, *(inner for inner in root.values() if isinstance(inner, dict))]))
        name = draw(st.sampled_from(list(within) or ["x"]) | st.sampled_from(_SETTINGS) | odd)
        if draw(st.integers(0, 3)):
            within[name.replace("\udcff", "?")] = draw(_value)
        else:
            within.pop(name, None)
    text = "\n".join(f"{_key(name)} = {_toml(value)}" for name, value in root.items()).encode()
    if draw(rarely(12)):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(
            st.sampled_from((b"\xff", b"\0", b"=", b"[", b'"', b"9" * 5000, b"[" * 3000, b"a." * 3000))
        )
    return text


@st.composite
def surroundings(draw: st.DrawFn) -> dict[str, bytes]:
    found = {
        "run.toml": draw(settings(RUN_FILE)),
        "x.npz": draw(st.just(archive(False)) | archives | damaged),
        "x.csv": draw(st.just(TABLE) | damaged),
        **draw(folders()),
    }
    kinds = st.sampled_from((None, RUN, FOLDER, RUN, AUTHORITY, b""))
    for name in ("data", "state"):
        if (kind := draw(kinds)) is not None:
            found[name] = kind
    if not draw(rarely(6)):
        untrue = st.sampled_from((PIPE, KEY, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
        found["pem"] = draw(rarely(3).flatmap(lambda drawn: damaged | untrue if drawn else st.just(CERTIFICATE)))
    if not draw(rarely(6)):
        found["key"] = draw(st.sampled_from((KEY, KEY, KEY, PIPE, CERTIFICATE, b"")))
    if not draw(rarely(6)):
        found["word"] = draw(st.sampled_from((b"a" * 64, b"a" * 64, PIPE, b"zw1.a.", b"\xff", b"")))
    if found.get("data") in (FOLDER, RUN, AUTHORITY) and not draw(st.integers(0, 2)):
        for name in draw(
            st.lists(
                st.sampled_from(
                    ("ledger.sqlite", "thesis.tex", "operator.credential", "ca.pem", "ca.key", "server.crt", "lock")
                ),
                max_size=2,
            )
        ):
            found[f"data/{name}"] = draw(damaged)
    return found


# Command lines: each is options that work, of which some are left out, given twice, or have an odd value.
number = mostly(st.integers(1, 3).map(str), odd)
word = mostly(st.sampled_from(("a", "host-1", "late")), odd)
folder = mostly(st.sampled_from(("data", "state", "new")), path)
pem, key, word_file = (mostly(st.just(name), path) for name in ("pem", "key", "word"))
fed = mostly(
    st.sampled_from(("digits", "digits,alpha=1", "npz:x.npz", "csv:x.csv,label=kind", "folder:images,size=4")), data
)
own = mostly(st.sampled_from(("digits:1/2", "npz:x.npz", "csv:x.csv,label=kind", "folder:images,size=4")), data)
model = mostly(st.sampled_from(("mlp", "my_models:tiny")), odd)
rate = mostly(st.just("1Mbit"), odd)
device = mostly(st.sampled_from(("cpu", "cuda")), odd)
Options = dict[str, st.SearchStrategy[str] | None]
_reach: Options = {
    "--server": address,
    "--data-dir": folder,
    "--credential-file": word_file,
    "--ca": pem,
    "--certificate": pem,
    "--key": key,
    "--insecure": None,
}
_json: Options = {"--json": None}
_reason: Options = {"--reason": odd}
_days: Options = {"--days": mostly(st.just("1"), odd)}
VERBS: dict[str, tuple[list[st.SearchStrategy[str]], Options]] = {
    **{name: ([], _reach) for name in ("watch", "health", "resume")},
    **{name: ([], {**_reach, **_json}) for name in ("status", "clients")},
    **{name: ([], {**_reach, **_reason}) for name in ("pause", "pivot", "stop")},
    "revoke": ([word], {**_reach, **_reason, "--with-invitation": None}),
    "invitations": ([], {**_reach, **_json, "--all": None}),
    "uninvite": ([word], {**_reach, **_reason}),
    "invite": (
        [],
        {**_reach, "--tier": mostly(st.just("low"), odd), "--expires": mostly(st.just("7d"), odd), "--uses": number,
         "--data": own},
    ),
    "export": ([], {"--data-dir": folder, "--out": path, "--version": mostly(st.just("0"), odd)}),
    "fsck": ([folder], {"--repair": None, "--json": None}),
    "backup": ([folder, path], {}),
    "restore": ([folder], {"--store": mostly(st.just("postgresql://127.0.0.1:1/fleet?connect_timeout=1"), odd)}),
    "new": ([folder], {"--kind": mostly(st.sampled_from(("images", "rows", "text")), odd)}),
    "report": ([folder], {"--out": path}),
    "runs": ([folder], {"--json": None, "--plot": path}),
    "version": ([], {}),
    "plan": (
        [mostly(st.just("run.toml"), path)],
        {"--high": number, "--low": number, "--examples": number, "--up": rate, "--down": rate,
         "--speed": number, "--json": None},
    ),
    "demo": (
        [],
        {"--out": folder, "--high": number, "--low": number, "--alpha": number, "--model": mostly(st.just("cnn"), odd),
         "--rounds": number, "--seed": number, "--paper-mode": None, "--images": path},
    ),
    "experiment": (
        [mostly(st.just("table.toml"), path)],
        {"--out": folder, "--results": folder, "--only": word, "--jobs": number, "--keep": None},
    ),
    "fleet": (
        [],
        {"--clients": number, "--data": fed, "--server": address, "--high": mostly(st.just("0"), odd), "--device": device,
         "--high-share": mostly(st.just("0.5"), odd), "--name": word, "--profile": mostly(st.just("mix.toml"), path),
         "--workers": number, "--ca": pem, "--certificate": pem, "--key": key, "--join-file": word_file,
         "--join-file-high": word_file, "--seed": number, "--threads": number, "--engine": mostly(st.just("local"), odd),
         "--address": address, "--insecure": None, "--policy": mostly(st.just("policy.toml"), path), "--allow-model": model},
    ),
    "certs init": ([], {"--out": folder, "--host": word, **_days}),
    "certs server": ([], {"--out": folder, "--host": word, "--name": word, **_days}),
    "certs client": ([word], {"--out": folder, **_days}),
}  # fmt: skip
DEVICE: Options = {
    "--data": own, "--server": address, "--tier": mostly(st.sampled_from(("auto", "low", "high")), odd), "--name": word,
    "--key": key, "--join-file": word_file, "--ca": pem, "--certificate": pem, "--threads": number, "--device": device,
    "--insecure": None, "--policy": mostly(st.just("policy.toml"), path),
    "--allow-model": model,
}  # fmt: skip
COORDINATOR: Options = {
    "--address": address, "--metrics-address": address, "--web-address": address, "--advertise": address, "--insecure": None, "--model-cache": folder, "--exit-when-finished": None,
}  # fmt: skip
environments = st.dictionaries(
    st.sampled_from(
        ("HOME", "XDG_STATE_HOME", "TERM", "COLUMNS", "LANG", "LC_ALL", "NO_COLOR", "FORCE_COLOR", "ZOWARMUP_SERVER",
         "ZOWARMUP_DATA_DIR", "ZOWARMUP_JOIN", "ZOWARMUP_OPERATOR_CREDENTIAL", "grpc_proxy", "http_proxy", "PYTHONUTF8")
    ),
    st.sampled_from(("", "1", "x", "HERE/home", "HERE/run.toml", "rel", "/dev/null", "C", "invalid", "dumb", NOBODY))
    | odd.map(lambda text: text.replace("/", "_")),
    max_size=3,
)  # fmt: skip


@st.composite
def line(draw: st.DrawFn, options: Options, always: Sequence[str] = ()) -> list[str]:
    chosen = [
        *always,
        *draw(st.lists(st.sampled_from([name for name in options if name not in always] or [""]), max_size=3)),
    ]
    if "--certificate" in chosen and not draw(rarely(5)):
        chosen.append("--key")
    found: list[str] = []
    for name in filter(None, chosen):
        values = options.get(name)
        found += [name] if values is None else [name, draw(values)]
    if draw(rarely(20)):
        found.insert(draw(st.integers(0, len(found))), draw(odd | st.just("-x")))
    return found


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    files, environment = draw(surroundings()), draw(environments)
    program = draw(st.sampled_from((CLIENT, SERVER, COMMAND, COMMAND)))
    if program == CLIENT:
        files["policy.toml"] = draw(settings(POLICY_FILE))
        verbs = draw(st.sampled_from(((), ("--doctor",), ("doctor",))))
        program = COMMAND if verbs == ("doctor",) else CLIENT
        arguments = [
            *verbs,
            *draw(line(DEVICE | _json, ()) if verbs else line(DEVICE, ("--data",))),
            *(() if verbs else ("--connect-timeout", "0.01")),
        ]
        if "--server" not in arguments:
            arguments += ["--server", NOBODY]
        arguments += ["--state-dir", draw(folder)] if draw(st.booleans()) else []
    elif program == SERVER:
        arguments = ["run.toml", *draw(line(COORDINATOR)), "--data-dir", draw(folder)]
    else:
        verb = draw(st.sampled_from(sorted(VERBS)))
        places, options = VERBS[verb]
        always: list[str] = [name for name in ("--clients", "--data", "--out", "--tier", "--host") if name in options]
        always += ["--data-dir"] if verb == "export" else []
        arguments = [
            *verb.split(),
            *(draw(place) for place in places),
            *draw(line(options, () if draw(rarely(6)) else always)),
        ]
        if verb == "fleet":
            arguments += ["--connect-timeout", "0.01", "--state", draw(folder)]
        if verb == "experiment":
            arguments += draw(st.sampled_from((["--list"], ["--limit", "0"])))
            files["table.toml"] = draw(settings(TABLE_FILE))
        if verb == "fleet":
            files["policy.toml"] = draw(settings(POLICY_FILE))
            files["mix.toml"] = draw(settings(MIX_FILE))
    return Attempt(
        program,
        tuple(arguments),
        files,
        environment,
        draw(st.sampled_from(("kept", "kept", "kept", "full", "closed"))),
        draw(st.sampled_from(("utf-8", "ascii", "latin-1"))),
    )
