"""A restore: from archives to a data folder that a mongod can begin a new replica set on, as of one moment.

It takes steps, and notes each that is finished in the folder that it works in. A run that finds the notes of one that
was killed goes on after the last of them.

    INTO/restore.json    what is restored, how far it is, and in the end what came of it
    INTO/data            the data folder
    INTO/work            log and key of the mongod that replays

An archive that turns out to be damaged is left aside for the one before it, with more of the log to replay. A damaged
slice of the log cannot be replaced: no moment after it is reachable from an archive before it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from loyalty.backup import replay
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, Catalogue, ClusterTime, Target, read_catalogue, write_whole
from loyalty.backup.plan import Plan, Unreachable, plan, windows
from loyalty.backup.raw import NotBson, documents
from loyalty.backup.replay import ReplayError
from loyalty.backup.repository import Repository, RepositoryError
from loyalty.backup.scratch import Scratch
from loyalty.backup.sealed import Damaged, read_identity, read_sealed, sha256_of
from loyalty.backup.settings import Settings, read_secret
from loyalty.backup.target import hold
from loyalty.backup.verify import damaged, read_state

STEPS: Final = ("check", "unpack", "append", "replay", "detach")

Progress = Callable[[str, int, int], None]
"""Told of a step how much of how much is done: bytes of unpacking, entries of appending; 0 of 0 when it begins."""

_NOTES: Final = "restore.json"


class Restored(msgspec.Struct, frozen=True):
    """What a restore came to."""

    data: str
    """The data folder. It belongs to whoever restored; give it to the user of mongod."""
    at: str
    """The last moment that it holds, ISO 8601, UTC."""
    to: ClusterTime
    """The same moment of the replica set that it came from."""
    archive: str
    chain: str | None
    slices: int
    entries: int
    """Of the log, read for it."""
    server_version: str | None
    fcv: str | None
    left_aside: tuple[str, ...]
    """A sentence for each archive that could not be used."""
    seconds: dict[str, float]
    """What each step took."""


class _Notes(msgspec.Struct):
    """How far a restore is."""

    site: str
    asked: str
    plan: Plan | None = None
    left_aside: dict[str, str] = {}
    done: list[str] = []
    seconds: dict[str, float] = {}
    last: ClusterTime | None = None
    result: Restored | None = None


def restore(
    settings: Settings,
    to: ClusterTime | None,
    into: Path,
    *,
    forget_users: bool = False,
    progress: Progress = lambda step, done, whole: None,
) -> Restored:
    """Restore the moment `to`, or (None) the last one, into a folder that is empty, or one that was killed at it.

    `forget_users` leaves the users of the database out, so that new ones can be made through the localhost exception.
    Unreachable when the moment is in no window; Damaged, RepositoryError or ReplayError when what is needed is broken;
    BackupError when the folder holds something else or has no room. Each names what is wrong and what to do.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone_in(into):
        return _Restore(settings, to, into, forget_users, progress).run()


@contextmanager
def room(settings: Settings, target: Target, what: str) -> Iterator[Path]:
    """The folder for what is restored only to be looked at: empty, ours alone, and gone in the end."""
    folder = settings.drill.directory
    with hold(target, what, part="drill"):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def log_entries(settings: Settings, slices: Sequence[Archive]) -> Iterator[bytes]:
    """The raw entries of consecutive slices. Damaged names the slice that cannot be read to its end."""
    target = Target(settings.target)
    identity = read_identity(settings.identity_file)
    for piece in slices:
        path = target.slice(piece)
        count = 0
        try:
            for entry in documents(read_sealed(path, identity)):
                count += 1
                yield entry
        except NotBson as error:
            raise _damaged_slice(path, str(error)) from None
        if count != piece.entries:
            raise _damaged_slice(path, f"it has {count} entries instead of {piece.entries}")


class _Restore:
    def __init__(
        self, settings: Settings, to: ClusterTime | None, into: Path, forget_users: bool, progress: Progress
    ) -> None:
        self._settings = settings
        self._target = Target(settings.target)
        self._to = to
        self._into = into
        self._forget_users = forget_users
        self._progress = progress
        self._scratch = Scratch.in_folder(settings, into)
        self._notes = self._open()

    def run(self) -> Restored:
        if self._notes.result is not None:
            return self._notes.result
        while True:
            try:
                self._take_steps()
                break
            except (RepositoryError, ReplayError) as error:
                if "append" in self._notes.done:
                    raise
                self._leave_aside(error)
        self._notes.result = self._result()
        self._note()
        return self._notes.result

    def _take_steps(self) -> None:
        if "append" in self._notes.done and "replay" not in self._notes.done and replay.was_begun(self._scratch):
            self._begin_again()
        for name, act in zip(STEPS, (self._check, self._unpack, self._append, self._replay, self._detach), strict=True):
            if name in self._notes.done:
                continue
            began = time.monotonic()
            self._progress(name, 0, 0)
            act()
            self._notes.done.append(name)
            self._notes.seconds[name] = round(time.monotonic() - began, 3)
            self._note()

    def _check(self) -> None:
        """Make the plan, and see that all it needs is there before anything takes hours."""
        self._notes.plan = made = self._make_plan(read_catalogue(self._target))
        whole = sum(piece.stored_bytes for piece in made.slices)
        read = 0
        for piece in made.slices:
            path = self._target.slice(piece)
            if not path.exists():
                raise self._without(piece, f"The slice {path} of the log is missing.")
            if sha256_of(path) != piece.sha256:
                raise self._without(piece, f"The slice {path} of the log is not as it was written.")
            read += piece.stored_bytes
            self._progress("check", read, whole)
        _require_release(self._settings.restore.mongod, made.archive)
        free = shutil.disk_usage(self._into).free
        if free < made.bytes:
            raise BackupError(
                f"{self._into} has {free / 1e9:.1f} GB free; the restore needs {made.bytes / 1e9:.1f} GB.",
                "Name a folder on a larger disk.",
            )

    def _make_plan(self, catalogue: Catalogue) -> Plan:
        """Around archives that a verification found damaged, where there is a way around them."""
        known = {id for kind, id in damaged(read_state(self._target)) if kind in ("full", "incremental")}
        try:
            return plan(catalogue, self._to, without={*self._notes.left_aside, *known})
        except Unreachable:
            return plan(catalogue, self._to, without=self._notes.left_aside)

    def _without(self, piece: Archive, problem: str) -> Unreachable:
        """Why a damaged slice stops the restore, and what can be restored nevertheless."""
        catalogue = read_catalogue(self._target)
        left = catalogue._replace(slices=tuple(one for one in catalogue.slices if one.id != piece.id))
        return Unreachable(
            problem,
            f"Bring it from the second copy. Without it can be restored: {', '.join(map(str, windows(left)))}.",
        )

    def _unpack(self) -> None:
        archive = self._plan.archive
        for folder in (self._scratch.data, self._scratch.work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        repository = Repository(
            self._target.repository(archive.chain or ""), read_secret(self._settings.passphrase_file)
        )
        with _watched(self._scratch.data, lambda size: self._progress("unpack", size, archive.bytes)):
            repository.extract(archive.id, self._scratch.data)
        _flush(self._scratch.data)  # the note that follows must not be true of memory only

    def _append(self) -> None:
        made = self._plan
        self._notes.last = replay.append(
            self._scratch,
            log_entries(self._settings, made.slices),
            base=made.archive.to,
            to=made.to,
            progress=lambda entries: self._progress("append", entries, made.entries),
        )

    def _replay(self) -> None:
        replay.recover(self._scratch, self._last)

    def _detach(self) -> None:
        replay.detach(self._scratch, forget_users=self._forget_users)

    def _leave_aside(self, error: BackupError) -> None:
        """Go on with the archive before; Unreachable, from the plan, when there is none."""
        self._notes.left_aside[self._plan.archive.id] = error.problem
        self._begin_again()
        try:
            plan(read_catalogue(self._target), self._to, without=self._notes.left_aside)
        except Unreachable as unreachable:
            self._notes.left_aside = {}  # the next run may find them mended
            self._note()
            raise Unreachable(f"{error.problem} {unreachable.problem}", unreachable.remedy) from None

    def _begin_again(self) -> None:
        self._notes.done = []
        self._notes.last = None
        self._note()

    def _open(self) -> _Notes:
        """The notes of a run that was killed, or new ones."""
        asked = (self._to.hex if self._to else "latest") + " without users" * self._forget_users
        path = self._into / _NOTES
        try:
            notes = msgspec.json.decode(path.read_bytes(), type=_Notes)
        except FileNotFoundError:
            if any(self._into.iterdir()):
                raise BackupError(f"{self._into} is not empty.", "Name another folder, or remove it.") from None
            notes = _Notes(self._settings.site, asked)
        except msgspec.MsgspecError as error:
            raise BackupError(f"{path} cannot be read: {error}.", f"Remove {self._into}.") from None
        if (notes.site, notes.asked) != (self._settings.site, asked):
            raise BackupError(
                f"{self._into} holds another restore, of {notes.site} to {notes.asked}.",
                "Name another folder, or remove it.",
            )
        return notes

    def _note(self) -> None:
        write_whole(self._into / _NOTES, msgspec.json.encode(self._notes))

    @property
    def _plan(self) -> Plan:
        if self._notes.plan is None:
            raise AssertionError("the plan is made first")
        return self._notes.plan

    @property
    def _last(self) -> ClusterTime:
        if self._notes.last is None:
            raise AssertionError("the log is appended first")
        return self._notes.last

    def _result(self) -> Restored:
        made = self._plan
        return Restored(
            data=str(self._scratch.data),
            at=self._last.instant.isoformat(),
            to=self._last,
            archive=made.archive.id,
            chain=made.archive.chain,
            slices=len(made.slices),
            entries=made.entries,
            server_version=made.archive.server_version,
            fcv=made.archive.fcv,
            left_aside=tuple(f"{name}: {problem}" for name, problem in self._notes.left_aside.items()),
            seconds=self._notes.seconds,
        )


def _require_release(mongod: Path, archive: Archive) -> None:
    """A log is replayed by the release line that wrote it. Later patches of it may."""
    try:
        said = subprocess.run([str(mongod), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise BackupError(
            f"{mongod} does not run on this host.", "Install MongoDB here, or correct restore.mongod."
        ) from None
    found = re.search(r"db version v((\d+\.\d+)\.\d+)", said)
    if found is None or archive.server_version is None:
        raise BackupError(f"{mongod} does not say its version.", "Correct restore.mongod in the settings.")
    if found[2] != ".".join(archive.server_version.split(".")[:2]):
        raise BackupError(
            f"{mongod} is {found[1]}; the archive is of a {archive.server_version}.",
            f"Install MongoDB {'.'.join(archive.server_version.split('.')[:2])} on this host.",
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else may work there at the same time. The kernel lets go when we die."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"Another run restores into {folder}.", "Wait until it has ended.") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _watched(folder: Path, tell: Callable[[int], None]) -> Iterator[None]:
    """Tell each second how much is in a folder that somebody else fills."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            tell(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _flush(folder: Path) -> None:
    """Have every file of a folder on the disk."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged_slice(path: Path, reason: str) -> Damaged:
    return Damaged(f"The slice {path} of the log is damaged: {reason}.", "Bring it from the second copy.")
