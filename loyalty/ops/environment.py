"""The further packages that some verbs need in .venv, and the environment in which Ansible and the tests run."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

from loyalty.ops.errors import Failure
from loyalty.ops.locks import locked
from loyalty.ops.process import run
from loyalty.ops.site import CHECKOUT

APPLICATION = "loyalty/requirements.txt"
TESTS = "tests/requirements.txt"

BIN = CHECKOUT / ".venv" / "bin"


def missing(locks: list[str]) -> list[str]:
    """Return those of the pinned lists that .venv does not hold as they are now."""
    return [lock for lock in locks if not _is_installed(lock)]


def install(locks: list[str]) -> None:
    """Install pinned lists into .venv: every file is checked against its hash."""
    with locked(CHECKOUT / ".cache" / "packages.lock"):
        for lock in missing(locks):
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
            try:
                # The list is complete. Left to resolve, pip takes an extra of a pinned package for a package of its own
                # and stumbles over its newest version as soon as there is a newer one than the pinned.
                run([*pip, "--no-deps", "--require-hashes", "--requirement", str(CHECKOUT / lock)])
            except Failure as failure:
                raise Failure(
                    f"pip could not install {lock}.", "Make `pip download pip` work, then run again.", failure.details
                ) from None
            stamp = _stamp(lock)
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(_hash(lock))


def tool_environment() -> dict[str, str]:
    """Return the environment for the tools of .venv: found first, configured by this checkout, speaking UTF-8.

    Playbooks are run by Mitogen's strategy, unless ANSIBLE_STRATEGY names another (docs/decisions/0037-mitogen.md), and
    do not tell operators at each start that it is not Ansible's own.
    """
    mitogen = Path(sysconfig.get_path("purelib")) / "ansible_mitogen"
    return {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(mitogen / "plugins" / "strategy"),
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        **os.environ,
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "LC_ALL": "C.UTF-8",  # ansible refuses any other encoding, and a fresh system may have none
        "PYTHONUNBUFFERED": "1",
    }


def _stamp(lock: str) -> Path:
    return CHECKOUT / ".venv" / "stamps" / lock.replace("/", "-")


def _hash(lock: str) -> str:
    return hashlib.sha256((CHECKOUT / lock).read_bytes()).hexdigest()


def _is_installed(lock: str) -> bool:
    stamp = _stamp(lock)
    return bool(stamp.exists() and stamp.read_text().strip() == _hash(lock))
