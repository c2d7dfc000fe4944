"""What is being done now, for whoever asks meanwhile: also when the one who did it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loyalty.backup.manifest import Target
from loyalty.backup.records import noted
from loyalty.backup.running import under_way
from tests.by_path import load

host_state = load("roles/verify/library/host_state.py")

PROGRAM = """
import sys, time; from pathlib import Path
from loyalty.backup.manifest import Target; from loyalty.backup.records import noted
with noted(Target(Path(sys.argv[1])), "full") as outcome:
    outcome.progress(1_200, 2_700)
    print("begun", flush=True)
    time.sleep(60)  # the test kills this process long before
"""


def test_a_run_is_seen_while_it_goes_on_and_not_after(tmp_path: Path) -> None:
    target = Target(tmp_path)
    assert list(under_way(target)) == []
    with noted(target, "full") as outcome, noted(target, "log"):
        outcome.progress(1_200, 2_700)
        full, log = under_way(target)
        assert (full.kind, full.step, full.done, full.whole) == ("full", "", 1_200, 2_700)
        assert (log.kind, log.done, log.whole) == ("log", 0, 0)
        assert full.began.endswith("Z")
    assert list(under_way(target)) == []


def test_a_run_that_was_killed_does_not_go_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (full,) = under_way(Target(tmp_path))
        assert full.done == 1_200
        process.send_signal(signal.SIGKILL)
    assert list(under_way(Target(tmp_path))) == []


def test_a_step_is_told_when_it_begins_and_how_far_it_is_each_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path)
    seconds = 100.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    with noted(target, "drill") as outcome:
        outcome.progress(0, 0, step="unpack")
        outcome.progress(5, 10, step="unpack")
        (drill,) = under_way(target)
        assert (drill.step, drill.done) == ("unpack", 0)
        seconds += 1
        outcome.progress(6, 10, step="unpack")
        (drill,) = under_way(target)
        assert (drill.step, drill.done, drill.whole) == ("unpack", 6, 10)
        outcome.progress(0, 0, step="verify")
        (drill,) = under_way(target)
        assert (drill.step, drill.done) == ("verify", 0)


def test_a_disk_without_room_for_it_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with noted(Target(tmp_path), "full") as outcome:
        outcome.progress(1, 2)
    assert list(under_way(Target(tmp_path))) == []


def test_what_status_reads_is_the_same(tmp_path: Path) -> None:
    target = Target(tmp_path)
    target.marker.write_text('{"format": 1, "site": "shop", "created_at": "2026-11-01T09:00:00Z"}')
    with noted(target, "full") as outcome:
        outcome.progress(1_200, 2_700)
        (running,) = host_state.backup_state(tmp_path)["running"]
        assert {name: running[name] for name in ("kind", "done", "whole")} == {
            "kind": "full",
            "done": 1_200,
            "whole": 2_700,
        }
        json.dumps(running)
    assert host_state.backup_state(tmp_path)["running"] == []
    (recent,) = host_state.backup_state(tmp_path)["recent"]
    assert (recent["kind"], recent["ok"]) == ("full", True)
