"""Pack the site's folder and its inventory on the control machine, encrypted with the vault's password.

What the vault holds would be no use as a key: it is in the archive. With the password, `ansible-vault decrypt` and
`tar` alone open it, on any machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.action import ActionBase

# The key does not lie beside what it opens, and a lab's servers are no secret of the site.
LEFT_OUT = {".vault_password", ".lock", "backup", "logs", "servers"}
# What the next look makes anew.
MADE_ANEW = {"disks.json", "doctor.json", "history.json", "releases.json", "status.json", "verification.json"}


def files_of(folder: Path) -> Iterator[Path]:
    """Every file of the folder that belongs into the archive, sorted."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if (
            path.is_file()
            and not LEFT_OUT.intersection(inside)
            and path.name not in MADE_ANEW
            and path.suffix != ".new"
        ):
            yield path


def contents(directory: Path, inventories: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """What the archive holds: the site's folder as `site/`, each inventory as `inventory/<its name>/`.

    Both may be the same folder, or one lie in the other: a new control machine looks for an inventory in its place.
    """
    for path in files_of(directory):
        yield f"site/{path.relative_to(directory)}", path
    for source in inventories:
        if source.is_dir():
            yield from ((f"inventory/{source.name}/{path.relative_to(source)}", path) for path in files_of(source))
        elif source.is_file():
            yield f"inventory/{source.parent.name}/{source.name}", source


def packed(entries: Iterable[tuple[str, Path]]) -> bytes:
    """A tar archive that depends on names, modes and contents alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in entries:
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), path.stat().st_mode & 0o777
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


class ActionModule(ActionBase):  # type: ignore[misc]
    """`pack_site: {directory, inventories, known_sha256, destination}` returns `id` and `path`, without suffix.

    Changed, and written, only when the contents are not those of `known_sha256`: `<path>.tar.vault` and `<path>.json`.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"directory", "inventories", "known_sha256", "destination"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        directory = Path(str(args["directory"])).resolve()
        plain = packed(contents(directory, [Path(str(name)).resolve() for name in args["inventories"]]))
        content_sha256 = hashlib.sha256(plain).hexdigest()
        id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = Path(str(args["destination"])) / id
        if content_sha256 == args["known_sha256"]:
            return result | {"changed": False, "id": "", "path": ""}
        if not self._task.check_mode:
            self._write(directory, path, plain, content_sha256)
        return result | {"changed": True, "id": id, "path": str(path)}

    def _write(self, directory: Path, path: Path, plain: bytes, content_sha256: str) -> None:
        try:
            password = (directory / ".vault_password").read_bytes().strip()
        except OSError as error:
            raise AnsibleError(
                f"The site's folder cannot be copied to the backups: {error}. The vault's password belongs there."
            ) from error
        sealed = VaultLib([("default", VaultSecret(password))]).encrypt(plain)
        manifest = {
            "format": 1,
            "id": path.name,
            "bytes": len(sealed),
            "sha256": hashlib.sha256(sealed).hexdigest(),
            "content_sha256": content_sha256,
        }
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for old in path.parent.glob("*"):
            old.unlink()
        for suffix, content in ((".tar.vault", sealed), (".json", json.dumps(manifest, indent=1).encode() + b"\n")):
            file = path.with_name(path.name + suffix)
            file.touch(mode=0o600)
            file.write_bytes(content)
