"""Find the source of the application on the control node: the checkout, or a version out of its history."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


def git(checkout: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in the checkout, which may belong to the operator while Ansible runs as root."""
    command = ["git", "-c", f"safe.directory={checkout}", "-C", str(checkout), *words]
    try:
        return subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, b"", b"git is not installed")


def commit_of(checkout: Path, version: str) -> str:
    """The commit that `version` (a tag, a branch, a commit) stands for. AnsibleError when there is none."""
    found = git(checkout, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{version}^{{commit}}")
    if found.returncode != 0:
        raise AnsibleError(
            f"There is no version {version} in {checkout}{_reason(found)}. Bring it here (git fetch --tags), or choose "
            "another: git tag; git log --oneline."
        )
    return found.stdout.decode().strip()


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace").strip()
    return f" ({said})" if said else ""


def export(checkout: Path, commit: str, package: str, destination: Path) -> Path:
    """The folder `package` as it was in `commit`; exported once, then found again."""
    folder = destination / commit
    if not folder.is_dir():
        packed = git(checkout, "archive", "--format=tar", commit, package)
        if packed.returncode != 0:
            raise AnsibleError(f"Version {commit[:12]} has no folder {package}{_reason(packed)}. Choose a later one.")
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination) as draft:
            content = Path(draft, "content")
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
                tar.extractall(content)  # noqa: S202 (it is our own history)
            try:
                content.rename(folder)
            except OSError:
                if not folder.is_dir():  # another run was faster
                    raise
    return folder / package


class ActionModule(ActionBase):  # type: ignore[misc]
    """`export_version: {source, version, destination}` returns `directory`, `commit` and `described`.

    `source` is the package in the checkout, and the answer when `version` is empty. `described` is what git calls it;
    both are empty where there is no history, as in an unpacked archive.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"source", "version", "destination"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        source = Path(str(self._task.args["source"])).resolve()
        version = str(self._task.args["version"])
        checkout, package = source.parent, source.name
        if version:
            commit = commit_of(checkout, version)
            directory = export(checkout, commit, package, Path(str(self._task.args["destination"])))
            described = version
        else:
            directory = source
            commit = git(checkout, "rev-parse", "HEAD").stdout.decode().strip()
            described = git(checkout, "describe", "--always", "--tags", "--dirty").stdout.decode().strip()
        return result | {"changed": False, "directory": str(directory), "commit": commit, "described": described}
