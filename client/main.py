"""zowarmup-client: one device of the fleet.

Heavy imports wait until the command line is known to be right.
"""

import argparse
import asyncio
import gc
import logging
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals

from zowarmup.client.errors import Final
from zowarmup.common.system.ending import FAILED, GRACE_S, SERVICE, Stopping, conclude, force_after
from zowarmup.common.system.files import PRIVATE
from zowarmup.common.system.logs import log_to_errors

log = logging.getLogger("zowarmup.client")
CLIENT, DOCTOR = "zowarmup-client", "zowarmup doctor"
"""The commands that this module is."""


def main(argv: Sequence[str] | None = None, prog: str = CLIENT) -> int:
    """`prog`: the command's name in its texts. Exit code: 0 when the run is over or on SIGTERM, 1 with a sentence where this
    device cannot take part, 2 for a wrong command line, 130 on Ctrl-C; conclude has the others."""
    stopping = Stopping(SERVICE)
    gc.disable()  # what is loaded stays: to look through it again and again takes a tenth of the start
    _settle_libraries()
    given = sys.argv[1:] if argv is None else argv
    code = conclude(prog, given, lambda: _run(given, stopping, prog), {Final: FAILED})
    gc.enable()
    force_after(GRACE_S, code)  # a model's own code may have left threads that never end
    return code


def _run(given: Sequence[str], stopping: Stopping, prog: str) -> int:
    from zowarmup.data import DataError

    arguments = _arguments(given, prog)
    os.umask(PRIVATE)
    log_to_errors("%(asctime)s %(levelname)s %(message)s", arguments.verbose)
    try:
        if arguments.doctor:
            from zowarmup.client.diagnostics.doctor import examine

            return examine(arguments)
        return _take_part(arguments, stopping)
    except DataError as error:
        raise Final(str(error)) from error


def _arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = arguments_parser(prog)
    arguments = parser.parse_args(argv)
    if not arguments.data and not arguments.doctor:
        parser.error("the following arguments are required: --data")
    return arguments


def arguments_parser(prog: str = CLIENT) -> argparse.ArgumentParser:
    """What the command understands; the environment says what may be left out. `prog`: `zowarmup doctor` for what only examines."""
    from zowarmup.common.messages.invitation import JOIN_VARIABLE
    from zowarmup.common.settings.addresses import SERVER_VARIABLE
    from zowarmup.data.spec import EACH_FORM

    doctor = prog != CLIENT
    forms = "\n".join(f"  {form}\n      {meaning}" for form, meaning in EACH_FORM.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Say what keeps this device from taking part in a coordinator's run, and what to do. It takes no part."
        if doctor
        else "Take part in a coordinator's run with the data of this device, as its owner allows, until the run is over.",
        epilog=f"What SPEC may be:\n{forms}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    known = os.environ.get(SERVER_VARIABLE) or None
    parser.add_argument(
        "--server",
        required=known is None,
        default=known,
        type=_address,
        metavar="HOST:PORT",
        help=f"the coordinator (or in {SERVER_VARIABLE}); of several of a run's, separated by commas, one at random that answers",
    )
    needed = "" if doctor else "; must be given"
    parser.add_argument("--data", metavar="SPEC", help=f"this device's data, as listed below{needed}")
    parser.add_argument(
        "--tier",
        choices=("auto", "high", "low"),
        default="auto",
        help="high: trains and probes; low: forward passes only; auto (the default): what this device's memory allows",
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="identity and replica (~/.local/state/zowarmup/NAME)"
    )
    parser.add_argument(
        "--join-file",
        type=Path,
        metavar="FILE",
        help=f"the invitation, where it is not in the environment as {JOIN_VARIABLE}",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM: who signs the coordinator's certificate (the invitation says it)"
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM: this device's own, where one is asked for"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM: the key of --certificate")
    parser.add_argument(
        "--insecure", action="store_true", help="send everything, secrets too, in plain text (loopback needs no asking)"
    )
    parser.add_argument("--name", type=_name, help="what to be called in the fleet (the host's name)")
    parser.add_argument("--threads", type=_threads, default=1, metavar="N", help="threads to compute with (1)")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="cpu|cuda",
        help="where to probe: cpu (the default, by ONNX Runtime) or, in the high tier, a device of torch's, as cuda:1",
    )
    parser.add_argument(
        "--connect-timeout",
        type=_seconds,
        metavar="S",
        help="give up after this many seconds without an answer at the start, 0: never (60 on a terminal, else 0)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="TOML: what this device allows any coordinator (docs/security.md, examples/policy.toml)",
    )
    parser.add_argument(
        "--allow-model",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="let the run have the code of this model (where this device trains), algorithm or task imported here; may be "
        "said several times",
    )
    parser.add_argument("--verbose", action="store_true", help="log more, and tracebacks")
    parser.add_argument(
        "--doctor",
        action="store_true",
        help=argparse.SUPPRESS
        if doctor
        else "take no part, but say what would keep this device from it, and what to do",
    )
    with_doctor = "" if doctor else "with --doctor: "
    parser.add_argument("--json", action="store_true", help=f"{with_doctor}as JSON, for programs")
    return parser


def _address(text: str) -> str:
    from zowarmup.common.settings.addresses import addresses_in

    try:
        addresses_in(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} must be seconds, such as 60, or 0 for no limit")
    return float(text)


def _name(text: str) -> str:
    from zowarmup.client.store.directory import client_name

    try:
        return client_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} must be 1 to 256")
    return int(text)


def _settle_libraries() -> None:
    """Before the first import of numpy. A pool of threads for the few products that numpy computes here costs memory (ONNX
    Runtime and torch are told their threads)."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def _take_part(arguments: argparse.Namespace, stopping: Stopping) -> int:
    from zowarmup.client.errors import ComputingStopped as WorkStopped

    async def until_stopped() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        # One thread, so that computing and disk go in order and memory is one thread's.
        loop.set_default_executor(ThreadPoolExecutor(max_workers=1))

        assert task is not None
        with stopping.notifying(lambda: loop.call_soon_threadsafe(task.cancel)):
            await _compose(arguments)

    try:
        asyncio.run(until_stopped())
    except (asyncio.CancelledError, WorkStopped):
        if not stopping.number:
            raise
        log.info("stopped by %s", Signals(stopping.number).name)
        return stopping.code
    return 0


async def _compose(arguments: argparse.Namespace) -> None:
    """Who this device is, what it holds, and its part in the run."""
    from zowarmup.client.participation import DeviceOptions, participate
    from zowarmup.client.policy import read_policy
    from zowarmup.client.store.directory import default_directory, default_name
    from zowarmup.client.work.joining import invited, patience_s
    from zowarmup.data import load

    name, policy = arguments.name or default_name(), read_policy(arguments.policy, arguments.allow_model)
    dataset = load(arguments.data)
    options = DeviceOptions(
        server=arguments.server,
        name=name,
        source=arguments.data,
        state_dir=arguments.state_dir or default_directory(name),
        tier=arguments.tier,
        policy=policy,
        invitation=invited(arguments.join_file),
        ca=arguments.ca,
        certificate=arguments.certificate,
        key=arguments.key,
        insecure=arguments.insecure,
        threads=arguments.threads,
        device=arguments.device,
        patience_s=patience_s(arguments.connect_timeout),
    )

    def begin() -> None:
        gc.freeze()  # what is loaded stays, and is no part of any later collection
        gc.enable()

    await participate(options, dataset, begin)


if __name__ == "__main__":
    sys.exit(main())
