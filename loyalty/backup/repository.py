"""A borg repository: one for each chain, with the full and the incrementals after it, each of their blocks once.

borg encrypts and authenticates every block, so a changed one is noticed whenever it is read. The passphrase reaches
borg through a pipe; nobody sees it among the arguments or in the environment. Keys and caches of borg lie beside the
repository and go with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from loyalty.backup.errors import BackupError

_BLOCK = 1 << 20
"""WiredTiger changes a file in place. Smaller blocks than this find little more in common and cost much more time."""

_NO_SUCH_COMMAND = 127


class RepositoryError(BackupError):
    """borg could not do it: the repository is damaged, in use or full, or the passphrase is another."""


class Imported(NamedTuple):
    """What an archive came to."""

    id: str
    """borg's own, a checksum over all that the archive holds."""
    bytes: int
    stored_bytes: int
    """What was new to the repository, compressed."""


class Repository:
    """One repository. Every method raises RepositoryError when borg does not succeed entirely."""

    def __init__(self, path: Path, passphrase: str) -> None:
        self.path = path
        self._passphrase = passphrase

    def create(self) -> None:
        """Make it, empty. The folder above must be there."""
        self._run("init", "--encryption=repokey-blake2", str(self.path))

    def import_tar(self, name: str, chunks: Iterable[bytes]) -> Imported:
        """Store a tar stream as an archive. Nothing becomes of it when `chunks` raises, which is raised again."""
        arguments = ("--json", f"--chunker-params=fixed,{_BLOCK}", "--compression=zstd,1", f"{self.path}::{name}", "-")
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = self._start(("import-tar", *arguments), stdin=subprocess.PIPE, stdout=out, stderr=errors)
            if process.stdin is None:
                raise AssertionError("borg was started with a pipe")
            try:
                with suppress(BrokenPipeError), process.stdin as pipe:  # borg's own words follow
                    for chunk in chunks:
                        pipe.write(chunk)
            except BaseException:
                process.kill()
                process.wait()
                raise
            self._require(process.wait(), errors)
            out.seek(0)
            archive = json.load(out)["archive"]
        stats = archive["stats"]
        return Imported(archive["id"], stats["original_size"], stats["deduplicated_size"])

    def archives(self) -> dict[str, str]:
        """Every archive's name with borg's id of it, also those that a run left unfinished."""
        listed = json.loads(self._run("list", "--json", "--consider-checkpoints", str(self.path)))["archives"]
        return {archive["name"]: archive["id"] for archive in listed}

    def extract(self, name: str, into: Path, *paths: str) -> None:
        """Restore an archive, or only some files of it, into an existing folder. Every block is authenticated."""
        self._run("extract", "--sparse", f"{self.path}::{name}", *paths, cwd=into)

    def read(self, name: str) -> None:
        """Read all that an archive holds, and authenticate every block, as restoring it does."""
        self._run("extract", "--dry-run", f"{self.path}::{name}")

    def delete(self, names: Sequence[str]) -> None:
        """Remove archives and give their room back."""
        if names:
            self._run("delete", str(self.path), *names)
            self._run("compact", str(self.path))

    def check(self) -> None:
        """Read everything and compare it with its checksums."""
        self._run("check", "--verify-data", str(self.path))

    def _run(self, *arguments: str, cwd: Path | None = None) -> bytes:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = self._start(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, cwd=cwd)
            self._require(process.wait(), errors)
            out.seek(0)
            return out.read()

    def _start(self, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start borg, which dies with us: an abandoned one would still write to the repository."""
        reading, writing = os.pipe()
        try:
            os.write(writing, self._passphrase.encode())
        finally:
            os.close(writing)
        verb, *others = arguments
        try:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "borg", "--log-json", "--lock-wait=10", verb, *others],
                env=self._environment(reading),
                pass_fds=(reading,),
                **streams,
            )
        finally:
            os.close(reading)

    def _environment(self, passphrase: int) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "BORG_PASSPHRASE_FD": str(passphrase),
            "BORG_BASE_DIR": str(self.path.parent / ".borg"),
            # The disk may hang on another host, or elsewhere on this one, when it is needed most.
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            # borg breaks the lock of a dead process of the same host by itself; so that it also does so after the disk
            # has moved, every host is the same to it. That only one host writes is what the target's own lock is for.
            "BORG_HOST_ID": "loyalty-backup",
        }

    def _require(self, code: int, errors: IO[bytes]) -> None:
        if code == 0:
            return
        errors.seek(0)
        reason = _reason(errors.read().decode(errors="replace"))
        if code == _NO_SUCH_COMMAND:
            raise RepositoryError("borg is not installed.", "Type: apt-get install borgbackup")
        raise RepositoryError(
            f"borg says of {self.path}: {reason}",
            "Check the disk and its free space. If the repository is damaged, take a new full: loyalty-backup full",
        )


def _reason(text: str) -> str:
    """The last thing that borg said. Of a traceback, which it shows where it has no words, the exception."""
    said = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            said.append(line)
            continue
        if entry.get("type") == "log_message" and entry.get("levelname") in ("WARNING", "ERROR", "CRITICAL"):
            said.append(_sentence(entry["message"].splitlines()))
    return said[-1].strip() if said else "nothing; it failed"


def _sentence(lines: Sequence[str]) -> str:
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            return next((after for after in lines[number + 1 :] if after and not after[0].isspace()), line)
    return lines[0] if lines else ""
