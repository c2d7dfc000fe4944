"""The target folder: the right one, one writer at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loyalty.backup.errors import BackupError
from loyalty.backup.settings import Database, Member, Settings
from loyalty.backup.target import hold, initialise, open_target, require_room


def settings(target: Path, **others: object) -> Settings:
    return Settings.model_validate(
        {
            "site": "acme",
            "target": target,
            "database": Database(replica_set="loyalty"),
            "members": (Member(address="db1:27017", command=("/x",)),),
            **others,
        }
    )


def test_a_folder_that_was_not_initialised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="Mount the backup disk"):
        open_target(settings(tmp_path))


def test_a_target_can_be_initialised_twice_and_keeps_what_it_has(tmp_path: Path) -> None:
    initialise(settings(tmp_path))
    (tmp_path / "log" / "x").touch()
    first = (tmp_path / "loyalty-backup.json").read_bytes()
    initialise(settings(tmp_path))
    assert (tmp_path / "log" / "x").exists()
    assert (tmp_path / "loyalty-backup.json").read_bytes() == first
    assert open_target(settings(tmp_path)).root == tmp_path


def test_the_target_of_another_site_is_refused(tmp_path: Path) -> None:
    initialise(settings(tmp_path))
    for act in (open_target, initialise):
        with pytest.raises(BackupError, match="of the site acme"):
            act(settings(tmp_path, site="other"))


def test_a_target_on_the_disk_of_the_data_is_refused_unless_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(BackupError, match="one broken disk"):
        initialise(settings(tmp_path, data_paths=(data,)))
    initialise(settings(tmp_path, data_paths=(data,), allow_same_disk=True))


def test_a_second_run_is_told_who_writes_and_log_and_files_have_locks_of_their_own(tmp_path: Path) -> None:
    target = initialise(settings(tmp_path))
    with hold(target, "A full"):
        with pytest.raises(BackupError, match=rf"A full \(process {os.getpid()}, since .*Z\) holds"), hold(target, "B"):
            pass
        with hold(target, "The log", part="log"), hold(target, "The files", part="files"):
            pass
    with hold(target, "B"):
        pass


def test_a_target_without_room_is_named(tmp_path: Path) -> None:
    target = initialise(settings(tmp_path))
    require_room(settings(tmp_path, reserve_megabytes=0), target, 1)
    with pytest.raises(BackupError, match="GB are needed"):
        require_room(settings(tmp_path), target, 1 << 60)
