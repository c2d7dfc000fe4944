"""Whether a database that gives nothing is gone, as a restore asks before it replaces what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loyalty.backup.errors import BackupError, Gone
from loyalty.backup.members import standings
from loyalty.backup.settings import Settings
from tests.integration.backup.conftest import Site
from tests.servers import Member, Mongod


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """It has data, if any, but belongs to no replica set."""
    server = Member(tmp_path / "member", "member")
    yield server
    if server.is_running:
        server.kill()


def nobody_serves(settings: Settings) -> BackupError:
    with pytest.raises(BackupError, match="No member of the replica set serves reads") as told:
        standings(settings)
    return told.value


def test_a_member_that_does_not_run_is_gone(tmp_path: Path, member: Member) -> None:
    site = Site(tmp_path / "host", [member])
    assert isinstance(nobody_serves(site.settings), Gone)
    assert site.run("log").returncode == 3


def test_an_empty_folder_that_a_server_was_started_on_is_gone(tmp_path: Path, member: Member) -> None:
    member.start()
    assert isinstance(nobody_serves(Site(tmp_path / "host", [member]).settings), Gone)


def test_a_member_that_does_not_know_us_is_there(tmp_path: Path, lone_member: Mongod) -> None:
    site = Site(tmp_path / "host", [lone_member], password="of another vault")
    assert not isinstance(nobody_serves(site.settings), Gone)
    assert site.run("log").returncode == 1


def test_a_member_that_hangs_is_there_whoever_else_is_gone(tmp_path: Path, member: Member) -> None:
    hangs = Mongod(tmp_path / "hangs")
    hangs.start()
    try:
        hangs.freeze()
        assert not isinstance(nobody_serves(Site(tmp_path / "host", [member, hangs]).settings), Gone)
    finally:
        hangs.thaw()
        hangs.stop()
