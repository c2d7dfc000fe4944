"""The public half of a signing key, worked out on the control machine: the private half stays in the vault."""

from __future__ import annotations

import base64
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def ed25519_public(seed: str) -> str:
    """In hexadecimal digits, as `loyalty ledger key` prints it; `seed` is 32 bytes in base64."""
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(seed))
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


class FilterModule:
    """Filters of the role."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"ed25519_public": ed25519_public}
