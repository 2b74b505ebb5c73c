"""Secrets as the coordinator keeps them: hashed.

The operator's own is made at the first start, in a file of the data directory that only its owner can read; removing
the file and starting again makes a new one.
"""

import hashlib
import logging
import os
import re
import secrets
from pathlib import Path

from zowarmup.common.system.files import read_given, replacing
from zowarmup.server.store.data_dir import OPERATOR_CREDENTIAL

log = logging.getLogger(__name__)


class CredentialError(Exception):
    """The operator's credential cannot be used; the sentence says what to do."""


def hash_secret(secret: str) -> str:
    """What is kept of a credential or token. They are 256 random bits, so a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()


def operator_sha256(data_dir: Path) -> str:
    """The hash of the operator's credential, made where there is none. Raises CredentialError."""
    path = data_dir / OPERATOR_CREDENTIAL
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            log.warning(
                "%s could be read by others, and now cannot: if somebody may have, remove it and start again", path
            )
        credential = read_given(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(
            f"{path} cannot be used: {getattr(error, 'strerror', None) or 'it is damaged'}; --data-dir must be readable and "
            "writable by this user, with room to write"
        ) from error
    if not re.fullmatch(r"[0-9a-f]{64}", credential):
        raise CredentialError(f"{path} is damaged: remove it, and the next start makes a new one")
    return hash_secret(credential)


def _make(path: Path) -> None:
    """Whole or not at all: a crash must not leave a file that is no credential."""
    with (
        replacing(path) as temporary,
        open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file,
    ):
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
