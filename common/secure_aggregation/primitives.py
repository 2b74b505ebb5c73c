"""The cryptographic primitives of secure aggregation, each in one line of the `cryptography` package.

Ed25519 signs, X25519 agrees on a secret, HKDF-SHA256 derives keys, ChaCha20 expands one into a mask and ChaCha20-Poly1305
seals a share. Nothing here is a primitive of our own, and nothing draws randomness. Every key of a cipher is derived for one
use, so nonces are zero. The package is imported where it is used: only a run with secure aggregation needs it.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    PrivateKey = X25519PrivateKey

KEY_BYTES = 32
SIGNATURE_BYTES = 64
TAG_BYTES = 16
"""What sealing adds."""


def verification_key(identity: bytes) -> bytes:
    """The public key of an identity.

    Args:
        identity: The private Ed25519 key, KEY_BYTES.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()


def signed(identity: bytes, message: bytes) -> bytes:
    """The Ed25519 signature of a message, SIGNATURE_BYTES.

    Args:
        identity: The private key, KEY_BYTES.
        message: What is signed.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(identity).sign(message)


def is_signed(verification_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is the identity's of that message.

    Args:
        verification_key: The public key.
        message: What would have been signed.
        signature: Any bytes.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(verification_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def private_key(private: bytes) -> "PrivateKey":
    """A private X25519 key as it is computed with, which takes longer to make than to agree once.

    Args:
        private: KEY_BYTES, any.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private)


def public_key(private: "PrivateKey") -> bytes:
    """The public X25519 key, KEY_BYTES."""
    return private.public_key().public_bytes_raw()


def agreed(private: "PrivateKey", public: bytes) -> bytes:
    """The secret that both ends of an X25519 agreement find, from which keys are `derived`.

    Args:
        private: One end's private key.
        public: The other end's public key.

    Raises:
        ValueError: `public` is no key that can be agreed with.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return private.exchange(X25519PublicKey.from_public_bytes(public))


def derived(secret: bytes, purpose: bytes) -> bytes:
    """A key for a purpose, by HKDF-SHA256, KEY_BYTES.

    Args:
        secret: What it is derived from.
        purpose: What it is for.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(secret)


def mask(key: bytes, count: int) -> NDArray[np.uint64]:
    """Numbers modulo 2^64 that look random to who does not have the key: ChaCha20's stream, little-endian.

    Args:
        key: KEY_BYTES, used for this only.
        count: How many numbers.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, "<u8").astype(np.uint64)


def sealed(key: bytes, text: bytes) -> bytes:
    """The text by ChaCha20-Poly1305, TAG_BYTES longer.

    Args:
        key: KEY_BYTES, used for this text only.
        text: What nobody else is to read.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(bytes(12), text, None)


def opened(key: bytes, sealed_text: bytes) -> bytes:
    """What was sealed with a key.

    Raises:
        ValueError: It was sealed with another key, or has been changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed_text, None)
    except InvalidTag:
        raise ValueError("it does not open") from None
