"""The history of runs and the alarms that stand."""

from __future__ import annotations

from pathlib import Path

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Target
from loyalty.backup.records import Run, alarms, clear_alarm, note_run, raise_alarm, runs


def run(name: str) -> Run:
    return Run(kind="full", id=name, began="2026-11-28T02:00:00Z", ended="2026-11-28T02:01:00Z", ok=True)


def test_runs_come_back_in_order_and_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    target = Target(tmp_path)
    assert list(runs(target)) == []
    note_run(target, run("a"))
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"kind": "full", "be')
    note_run(target, run("b"))
    assert [one.id for one in runs(target)] == ["a", "b"]


def test_an_alarm_stands_until_its_subject_is_well(tmp_path: Path) -> None:
    target = Target(tmp_path)
    raise_alarm(target, "log", BackupError("The log has a gap.", "Take a full."))
    raise_alarm(target, "log", BackupError("The log has a\nlarger gap.", "Take a full."))
    raise_alarm(target, "space", BackupError("It is full.", "Make room."))
    assert alarms(target) == {"log": "The log has a larger gap. Take a full.", "space": "It is full. Make room."}
    clear_alarm(target, "log")
    assert list(alarms(target)) == ["space"]
    clear_alarm(target, "space")
    assert not (tmp_path / "ALARM").exists()
    clear_alarm(target, "space")
