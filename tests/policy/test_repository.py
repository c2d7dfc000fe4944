"""What must not stand in the repository: addresses of package registries, paths of a machine, secrets, big files."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LARGEST_BYTES = 1_000_000
# Built from pieces, or this file would be the first to break its own rule.
REGISTRIES = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "py" + "pi.org",
            "files.python" + "hosted.org",
            "registry.np" + "mjs.org",
            "registry.ya" + "rnpkg.com",
            "deb.deb" + "ian.org",
            "security.deb" + "ian.org",
            "archive.ubu" + "ntu.com",
            "galaxy.ans" + "ible.com",
            "proxy.go" + "lang.org",
        )
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(work|farm|tmp/brief)/")
SECRETS = re.compile(r"\blk_[A-Za-z0-9_-]{43}\b|-----BEGIN (EC |RSA |OPENSSH |ENCRYPTED )?PRIVATE KEY-----")


@cache
def texts() -> dict[Path, str]:
    """Every tracked text file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    found = {}
    for name in filter(None, listed.decode().split("\0")):
        path = PROJECT / name
        try:
            found[path] = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return found


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("a package registry", REGISTRIES), ("a path of a machine", MACHINE_PATHS), ("a secret", SECRETS)],
)
def test_no_file_names(what: str, pattern: re.Pattern[str]) -> None:
    named = {
        str(path.relative_to(PROJECT)): match.group()
        for path, text in texts().items()
        if (match := pattern.search(text))
    }
    assert named == {}, what


def test_no_file_is_large() -> None:
    assert [path for path in texts() if path.stat().st_size > LARGEST_BYTES] == []


def test_locks_carry_hashes() -> None:
    for lock in ("requirements.txt", "loyalty/requirements.txt", "tests/requirements.txt"):
        pins = [line for line in (PROJECT / lock).read_text(encoding="utf-8").splitlines() if "==" in line]
        assert pins
        assert all(line.rstrip().endswith("\\") for line in pins), lock


def test_the_linters_skip_nothing() -> None:
    assert "skip_list: []" in (PROJECT / ".ansible-lint").read_text(encoding="utf-8")
