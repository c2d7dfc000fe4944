"""Locks between commands of this machine; the kernel frees them when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; ``waiting`` is called once if somebody else holds it now.

    The file is removed on the way out, so the loop makes sure that the lock is on the file that stands at
    the path and not on one that its last holder has just unlinked.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                    waiting = None
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                mine = os.fstat(handle).st_ino == path.stat().st_ino
            except FileNotFoundError:
                mine = False
            if not mine:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)
