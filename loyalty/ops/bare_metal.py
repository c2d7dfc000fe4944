"""Bring a site's folder and inventory back from a backup drive onto a control machine that does not know the site."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from loyalty.ops.errors import Refusal
from loyalty.ops.info import site_variables
from loyalty.ops.site import CHECKOUT


def bring_home(site: str, drive: Path, password: str) -> str:
    """Unpack the newest copy of the site's folder that is whole; returns which it was.

    Files that are here already must be the same. Raises Refusal when there is no copy, the password does not open it,
    or something else is in its place.
    """
    id, content = _newest(drive / "site")
    files = _opened(content, password)
    inventories = {name for name in files if name.startswith("inventory/")}
    home = CHECKOUT / "inventory" / "sites" / site
    # inventory/<its name there>/<file>: here it has the name of the site.
    _put({home / name.split("/", 2)[2]: files[name] for name in inventories})
    directory = Path(str(site_variables(site)["site_directory"]))
    _put({directory / name.partition("/")[2]: files[name] for name in files.keys() - inventories})
    _put({directory / ".vault_password": (f"{password}\n".encode(), 0o600)})
    return f"as it was kept at {id}: {home.relative_to(CHECKOUT)} and {directory}"


def _newest(folder: Path) -> tuple[str, bytes]:
    for manifest in sorted(folder.glob("*.json"), reverse=True):
        sealed = manifest.with_suffix(".tar.vault")
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if sealed.exists() and hashlib.sha256(sealed.read_bytes()).hexdigest() == known["sha256"]:
            return str(known["id"]), sealed.read_bytes()
    raise Refusal(
        f"{folder} has no copy of a site's folder that is whole.",
        "Name the folder in which the backup drive is mounted; it has the folders chains, log, files and site.",
    )


def _opened(sealed: bytes, password: str) -> dict[str, tuple[bytes, int]]:
    """What the archive holds: contents and mode by name."""
    from ansible.errors import AnsibleError  # type: ignore[import-untyped]
    from ansible.parsing.vault import VaultLib, VaultSecret  # type: ignore[import-untyped]

    try:
        plain = VaultLib([("default", VaultSecret(password.encode()))]).decrypt(sealed)
    except AnsibleError:
        raise Refusal(
            "The password does not open the site's folder.",
            "It was in .vault_password. Without it nothing can be restored: no other key fits.",
        ) from None
    found = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and ".." not in Path(member.name).parts:
                found[member.name] = (content.read(), member.mode)
    return found


def _put(files: dict[Path, tuple[bytes, int]]) -> None:
    """Write what is not there. Raises Refusal before anything is written, when something else is."""
    for path, (content, _) in files.items():
        if path.exists() and path.read_bytes() != content:
            raise Refusal(
                f"{path} is there already, and is not what the backup has.",
                "This machine knows a site of that name. Move it aside, or restore without --drive.",
            )
    for path, (content, mode) in files.items():
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
