"""What the backup program tells its operator: a line for each run, and the alarms that stand."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec
from pymongo.errors import PyMongoError

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Target, write_whole
from loyalty.backup.running import Tell, told
from loyalty.backup.target import Busy

R = TypeVar("R", bound=msgspec.Struct)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the program that was to change something."""

    kind: str
    """The command: full, incremental, log, dump, files, verify, prune, copy, drill."""
    id: str | None = None
    """Of the archive, when there is one."""
    began: str
    """ISO 8601, UTC."""
    ended: str
    ok: bool
    bytes: int = 0
    """What it added to the target."""
    error: str | None = None

    @property
    def took_s(self) -> float:
        """In seconds, whole ones."""
        began, ended = (datetime.fromisoformat(at.replace("Z", "+00:00")) for at in (self.began, self.ended))
        return (ended - began).total_seconds()


class Outcome:
    """What a run has to say of itself: how far it is, and when it succeeds."""

    id: str | None = None
    bytes: int = 0

    def __init__(self, progress: Tell) -> None:
        self.progress = progress


@contextmanager
def noted(target: Target, kind: str) -> Iterator[Outcome]:
    """A run of that kind: told while it goes on, then a line in the history, and an alarm that stands from a failure
    until the next success.

    That another run was writing is neither.
    """
    began = _now()

    def note(outcome: Outcome, error: str | None) -> None:
        note_run(
            target,
            Run(
                kind=kind, id=outcome.id, began=began, ended=_now(), ok=error is None, bytes=outcome.bytes, error=error
            ),
        )

    with told(target, kind, began) as progress:
        outcome = Outcome(progress)
        try:
            yield outcome
        except Busy:
            raise
        except (BackupError, PyMongoError, OSError) as error:
            with suppress(OSError):  # a full disk is the likeliest reason of all, and must not hide itself
                raise_alarm(
                    target, kind, error if isinstance(error, BackupError) else BackupError(f"{error}.", "Try again.")
                )
                note(outcome, str(error))
            raise
        note(outcome, None)
        clear_alarm(target, kind)


def note_run(target: Target, run: Run) -> None:
    """Add a run to the history."""
    append_line(target.root / "history.jsonl", run)


def append_line(path: Path, record: msgspec.Struct) -> None:
    """Add a record to a file of one JSON object a line, flushed.

    A line that a power cut tore is ended first, so that it spoils no other.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        file.write(b"\n" * torn + msgspec.json.encode(record) + b"\n")
        file.flush()
        os.fsync(descriptor)


def read_lines(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file that `append_line` wrote, oldest first, without lines that a power cut tore."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield msgspec.json.decode(line, type=kind)
            except msgspec.MsgspecError:
                continue


def runs(target: Target) -> Iterator[Run]:
    """The history, oldest first."""
    return read_lines(target.root / "history.jsonl", Run)


def raise_alarm(target: Target, subject: str, error: BackupError) -> None:
    """Let it be known that something is wrong, until `clear_alarm` of the same subject. One line a subject."""
    sentence = " ".join(f"{error.problem} {error.remedy}".split())
    with _alarms_held(target):
        _write_alarms(target, {**alarms(target), subject: sentence})


def clear_alarm(target: Target, subject: str) -> None:
    """Say that what `subject` is about is well again."""
    with _alarms_held(target):
        standing = alarms(target)
        if standing.pop(subject, None) is not None:
            _write_alarms(target, standing)


def alarms(target: Target) -> dict[str, str]:
    """The alarms that stand: by subject, a sentence with its remedy."""
    try:
        lines = _alarm_file(target).read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {subject: sentence for subject, _, sentence in (line.partition(": ") for line in lines) if sentence}


@contextmanager
def _alarms_held(target: Target) -> Iterator[None]:
    """Runs of different kinds may be under way at the same time, and share the one file."""
    descriptor = os.open(target.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_alarms(target: Target, standing: dict[str, str]) -> None:
    path = _alarm_file(target)
    if standing:
        text = "".join(f"{subject}: {sentence}\n" for subject, sentence in sorted(standing.items()))
        write_whole(path, text.encode())
    else:
        path.unlink(missing_ok=True)


def _alarm_file(target: Target) -> Path:
    return target.root / "ALARM"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
