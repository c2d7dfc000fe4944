"""Download the locked wheels for a server's Python on the control node, once, as one archive to ship.

The server needs no package registry: it installs from this archive alone, and every wheel must match its hash in the
lock file, here and there.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

# Oldest first: what the lock's wheels are built for, up to the C library of Ubuntu 22.04 and Debian 12.
MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")


def download(requirements: Path, python_version: str, architecture: str, destination: Path) -> None:
    """All wheels of the lock for CPython `python_version` (as 3.10) on `architecture` (as x86_64)."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--only-binary=:all:"),
        *("--implementation=cp", f"--python-version={python_version}"),
        *(f"--platform={tag}_{architecture}" for tag in MANYLINUX),
        *(f"--requirement={requirements}", f"--dest={destination}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AnsibleError(
            f"The wheels of {requirements.name} for Python {python_version} could not be downloaded: "
            f"{done.stderr.strip()[-2000:]}\nCheck that this machine reaches its package registry (pip config list)."
        )


class ActionModule(ActionBase):  # type: ignore[misc]
    """`fetch_wheels: {requirements, python_version, architecture, archive}` writes `archive` unless it is there."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"requirements", "python_version", "architecture", "archive"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        archive = Path(str(args["archive"]))
        if not self._task.check_mode:
            archive.parent.mkdir(parents=True, exist_ok=True)
            # Two servers, or two sites, may ask for the same wheels at once.
            with archive.with_suffix(".lock").open("w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not archive.exists():
                    self._make(Path(str(args["requirements"])), archive)
        return result | {"changed": False, "archive": str(archive)}

    def _make(self, requirements: Path, archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            wheels = Path(folder, "wheels")
            python_version, architecture = (str(self._task.args[name]) for name in ("python_version", "architecture"))
            download(requirements, python_version, architecture, wheels)
            partial = Path(folder, archive.name)
            with tarfile.open(partial, "w") as tar:
                tar.add(wheels, arcname=".")
            partial.replace(archive)
