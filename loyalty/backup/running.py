"""What is being done now and how far it is, for whoever asks meanwhile.

Each kind of run has a file of its own, locked while it goes on: so of one that was killed nothing is told. It is no
archive and nothing depends on it; where it cannot be written, the run goes on without.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import msgspec

from loyalty.backup.manifest import Target

_EVERY_S: Final = 1
_LENGTH: Final = 240
"""Always so long, so that one write replaces all of it."""


class Running(msgspec.Struct, frozen=True):
    """A run that goes on."""

    kind: str
    began: str
    """ISO 8601, UTC."""
    step: str = ""
    done: int = 0
    whole: int = 0
    """Of a step, in units of its own; of a run without steps, bytes. Zero when nobody knows."""


class Tell(Protocol):
    """Says how far a run is."""

    def __call__(self, done: int, whole: int, *, step: str = "") -> None: ...


@contextmanager
def told(target: Target, kind: str, began: str) -> Iterator[Tell]:
    """Let it be known that a run of that kind goes on. Of two at once the later one, which may end as `Busy`, is not
    told."""
    descriptor, is_told = -1, False
    last_step, last_at = "", -math.inf

    def write(running: Running) -> None:
        with suppress(OSError):
            if is_told:
                os.pwrite(descriptor, msgspec.json.encode(running).ljust(_LENGTH), 0)

    def tell(done: int, whole: int, *, step: str = "") -> None:
        nonlocal last_step, last_at
        if done and step == last_step and time.monotonic() < last_at + _EVERY_S:
            return
        last_step, last_at = step, time.monotonic()
        write(Running(kind, began, step, done, whole))

    try:
        with suppress(OSError):
            descriptor = os.open(target.root / f".running.{kind}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_told = True
        write(Running(kind, began))
        yield tell
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def under_way(target: Target) -> Iterator[Running]:
    """The runs that go on, by their kinds."""
    for path in sorted(target.root.glob(".running.*")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with suppress(msgspec.MsgspecError):
                    yield msgspec.json.decode(file.read(), type=Running)
