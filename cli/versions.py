"""Versions of what is installed here, from the packages' metadata: asking for torch's must not import torch."""

import platform
from importlib.metadata import PackageNotFoundError, version

from zowarmup.common.settings.run import PROTOCOL

PACKAGES = ("numpy", "grpcio", "protobuf", "onnxruntime", "torch")


def installed() -> dict[str, str]:
    """Versions by name, "not installed" where a package is missing."""
    return {
        "zowarmup": _version("zowarmup"),
        "protocol": str(PROTOCOL),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
