"""Locks between commands."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from loyalty.ops.locks import locked


def test_one_at_a_time_though_each_holder_removes_the_file(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)  # leaves the others time to come in, if they could
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert not (tmp_path / "lock").exists()


def test_who_waits_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=_take, args=(tmp_path / "lock", told))
        thread.start()
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)  # a poll: who waits is another thread
    thread.join()
    assert told == ["waiting"]


def _take(path: Path, told: list[str]) -> None:
    with locked(path, waiting=lambda: told.append("waiting")):
        pass
