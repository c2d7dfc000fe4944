"""Pack the application into an archive on the control node whose name and bytes depend on its content alone.

The same tree gives the same name on every machine and in every run, so a second run finds the release installed and
changes nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


def package_files(source: Path, exclude: list[str]) -> list[Path]:
    """Every file of a release, sorted. Caches and `exclude` (paths under `source`) are left out."""
    skipped = {source / name for name in exclude}
    return sorted(
        path
        for path in source.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix != ".pyc"
        and not skipped.intersection((path, *path.parents))
    )


def content_sha(source: Path, files: list[Path]) -> str:
    """Twelve hexadecimal digits over names and contents; lengths in front, so that no two trees read alike."""
    digest = hashlib.sha256()
    for path in files:
        for part in (path.relative_to(source).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()[:12]


def archive(source: Path, files: list[Path]) -> bytes:
    """A .tar.gz with owner, mode and time fixed."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{source.name}/{path.relative_to(source).as_posix()}")
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


class ActionModule(ActionBase):  # type: ignore[misc]
    """`pack_release: {source, exclude, destination}` returns `sha`, `path` and `release`.

    `release` is the name, `<when it was packed>-<sha>`: the same on every server of the site.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"source", "exclude", "destination"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        source = Path(str(self._task.args["source"])).resolve()
        if not (source / "__init__.py").is_file():
            raise AnsibleError(f"{source} is not the application's package. Run the playbook from a whole checkout.")
        files = package_files(source, list(self._task.args.get("exclude", [])))
        sha = content_sha(source, files)
        path = Path(str(self._task.args["destination"])) / f"{source.name}-{sha}.tar.gz"
        missing = not path.exists()
        if missing and not self._task.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            partial.write_bytes(archive(source, files))
            partial.replace(path)
        packed = time.gmtime(path.stat().st_mtime if path.exists() else None)
        release = f"{time.strftime('%Y%m%dT%H%M%SZ', packed)}-{sha}"
        # The archive is a cache of this machine; the site has not changed by it.
        return result | {"changed": False, "sha": sha, "path": str(path), "release": release}
