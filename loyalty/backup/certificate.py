"""Certificates: what a restore drill proved, signed, so that an auditor need not believe the disk it lies on.

    {"certificate": {…}, "public_key": "…", "signature": "…"}

The signature is Ed25519 over the certificate as JSON without blanks, its names sorted.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Holdings
from loyalty.backup.settings import SettingsError, read_secret


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill found. Times in seconds; `ok` is whether all of it is as it must be."""

    format: int = 1
    id: str
    site: str
    at: str
    """When it began, ISO 8601, UTC."""
    ok: bool
    verified: bool
    """Every chain, posting, state, seal and wallet of the restored ledger is right."""
    rto_seconds: float
    """From the start to a server that was verified and took a write."""
    rpo_seconds: float
    """From the last moment that could be restored to the start: what would have been lost then."""
    restored_to: str
    """The last moment that the source has spoken of, else the last one."""
    source: Holdings | None = None
    """What the source said that it held at that moment; it is what came back, if nothing else is told among the
    defects. None: it had said nothing."""
    entries: int
    """Of the ledger."""
    members: int
    seals: int
    sealed_entries: int
    available: dict[str, int]
    """Points that members can spend, by program and wallet."""
    files: int
    """Files that the restored database refers to and the snapshot of them had to bring back."""
    snapshot: str | None = None
    """The snapshot of the files that was restored, and read file by file. None: there was none, or it was not restored,
    as in certificates from before drills did so."""
    archive: str
    chain: str | None
    slices: int
    log_entries: int
    server_version: str | None
    seconds: dict[str, float]
    """What each step took."""
    defects: tuple[str, ...]
    """A sentence for each thing that is wrong."""
    agent: str

    @property
    def began(self) -> datetime:
        """`at` as an instant, aware."""
        return datetime.strptime(self.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


class _Signed(msgspec.Struct):
    certificate: dict[str, Any]
    public_key: str
    signature: str


def read_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs. SettingsError when the file holds none."""
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(read_secret(path), validate=True))
    except (binascii.Error, ValueError):
        raise SettingsError(f"{path} holds no 32 random bytes in base64: openssl rand -base64 32") from None


def sign(certificate: Certificate, key: Ed25519PrivateKey) -> bytes:
    """The signed certificate as a file."""
    content = msgspec.to_builtins(certificate)
    signed = _Signed(content, key.public_key().public_bytes_raw().hex(), key.sign(_canonical(content)).hex())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def check(file: bytes, public_key: str | None = None) -> Certificate:
    """The certificate, when the signature is right and of that key (in hexadecimal digits); else BackupError.

    Without `public_key` it is only consistent in itself: anybody can sign one with a key of his own.
    """
    try:
        signed = msgspec.json.decode(file, type=_Signed)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.public_key)).verify(
            bytes.fromhex(signed.signature), _canonical(signed.certificate)
        )
        certificate = msgspec.convert(signed.certificate, Certificate)
    except (msgspec.MsgspecError, ValueError, InvalidSignature):
        raise BackupError("The certificate is not as it was signed.", "Ask for the file again.") from None
    if public_key is not None and signed.public_key != public_key:
        raise BackupError(
            f"The certificate was signed by {signed.public_key}.", "Ask the site for its public key and compare."
        )
    return certificate


def _canonical(content: dict[str, Any]) -> bytes:
    return msgspec.json.encode(content, order="sorted")
