"""Keep the site's generated secrets in a vault on the controller: generate what is missing, change nothing else.

The vault is an ordinary ansible-vault file, so `ansible-vault view --vault-password-file .vault_password vault.yml`
reads it. The password file is made on the first run, readable by its owner only. In check mode missing secrets are
made in memory, so that templates can be rendered, and nothing is written.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.vault import AnsibleVaultError, VaultLib, VaultSecret
from ansible.plugins.action import ActionBase

HEADER = "# Generated secrets of this site. Back up together with .vault_password; without them the site is lost.\n"
VAULT_ID = "default"

_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def age_identity(key: bytes) -> str:
    """An X25519 key of 32 bytes as age writes it: Bech32 (BIP 173), in capitals."""
    prefix = "age-secret-key-"
    bits = int.from_bytes(key, "big") << 4  # 52 letters of 5 bits: four more than the key has
    data = [bits >> 5 * place & 31 for place in reversed(range(52))]
    spread = [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]
    checksum = 1
    for value in [*spread, *data, *[0] * 6]:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> place & 1 else 0
    checksum ^= 1
    data += [checksum >> 5 * place & 31 for place in reversed(range(6))]
    return (prefix + "1" + "".join(_BECH32[value] for value in data)).upper()


GENERATORS: dict[str, Callable[[], str]] = {
    # 256 bits, only characters that need no escaping in a connection string.
    "password": lambda: secrets.token_urlsafe(32),
    # 756 random bytes as the manual of MongoDB advises; base64 is what its key file takes.
    "keyfile": lambda: base64.b64encode(secrets.token_bytes(756)).decode(),
    # A seed for Ed25519.
    "seed": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    "api_key": lambda: "lk_" + secrets.token_urlsafe(32),
    # What is encrypted for it by age, only who has it can read.
    "age_identity": lambda: age_identity(secrets.token_bytes(32)),
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """`site_secrets: {directory: ..., wanted: {vault_x: password}}` returns `secrets`, `generated` or `refused`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"directory", "wanted"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        directory = Path(str(self._task.args["directory"]))
        wanted = {str(name): str(kind) for name, kind in self._task.args["wanted"].items()}
        try:
            known, missing = _fill(directory, wanted, write=not self._task.check_mode)
        except Refused as refusal:
            # Not a failure yet: the caller hides this task's output, and the operator must see the reason.
            return result | {"changed": False, "refused": str(refusal)}
        return result | {
            "changed": bool(missing),
            "generated": sorted(missing),
            "secrets": known | missing,
            "_ansible_no_log": True,
        }


class Refused(Exception):
    """The vault cannot be used; the message says why and what to do."""


def _fill(directory: Path, wanted: dict[str, str], *, write: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What the vault has, and what had to be generated."""
    if not write:
        known = _read(directory)
        return known, _generate(wanted, known)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory):
        known = _read(directory)
        missing = _generate(wanted, known)
        if missing:
            _write(directory, known | missing)
    return known, missing


def _generate(wanted: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    return {name: GENERATORS[kind]() for name, kind in wanted.items() if name not in known}


def _read(directory: Path) -> dict[str, str]:
    vault = directory / "vault.yml"
    if not vault.exists():
        return {}
    password_file = directory / ".vault_password"
    if not password_file.exists():
        raise Refused(
            f"{vault} is there but its password file {password_file} is not. Restore the password file from your "
            "backup of the site folder. If it is lost for good, the site's secrets are lost with it: restore the "
            "site from a backup into a new site folder."
        )
    try:
        text = _library(password_file).decrypt(vault.read_bytes())
    except AnsibleVaultError as error:
        raise Refused(
            f"{vault} cannot be opened with the password in {password_file}. The two belong together: restore both "
            "from the same backup of the site folder."
        ) from error
    found = yaml.safe_load(text) or {}
    return {str(name): str(value) for name, value in found.items()}


def _write(directory: Path, values: dict[str, str]) -> None:
    password_file = directory / ".vault_password"
    if not password_file.exists():
        _replace(password_file, secrets.token_urlsafe(32).encode() + b"\n")
    text = HEADER + yaml.safe_dump(values, sort_keys=True, width=10_000)
    _replace(directory / "vault.yml", _library(password_file).encrypt(text))


def _library(password_file: Path) -> VaultLib:
    return VaultLib([(VAULT_ID, VaultSecret(password_file.read_bytes().strip()))])


def _replace(path: Path, content: bytes) -> None:
    """Write all or nothing: a crash must not leave half a vault."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two runs at once must not generate two different secrets."""
    with open(directory / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
