"""From archives to a database: any second of the windows, whatever is damaged, wherever it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pymongo import MongoClient

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime, Target, read_catalogue
from loyalty.backup.plan import Unreachable, parse_moment
from loyalty.backup.restore import STEPS, restore
from loyalty.backup.scratch import Scratch
from loyalty.backup.settings import Settings
from loyalty.backup.verify import Result, note
from loyalty.infra.clock import system_clock
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.archives import archive, settings_in
from tests.integration.backup.history import Document, History, make, state_of
from tests.servers import REPOSITORY, GuardedMongod


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    directory = tmp_path_factory.mktemp("history")
    yield make(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def archived(history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a backup host whose target holds the history. Not to be changed."""
    directory = tmp_path_factory.mktemp("archived")
    settings = settings_in(directory)
    archive(settings, history)
    yield settings
    shutil.rmtree(directory)


@pytest.fixture
def settings(archived: Settings, tmp_path: Path) -> Settings:
    """The same with a target of the test's own."""
    shutil.copytree(archived.target, tmp_path / "target")
    return archived.model_copy(update={"target": tmp_path / "target"})


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "restored"
    shutil.rmtree(tmp_path / "restored", ignore_errors=True)


def require_state(into: Path, history: History) -> None:
    with Scratch(mongod_path(), into / "data", into / "work").replica_set("fresh") as client:
        assert state_of(client) == history.state


def test_the_newest_chain_and_the_log(archived: Settings, history: History, into: Path) -> None:
    result = restore(archived, history.to, into)
    assert (result.to, result.archive, result.left_aside) == (history.to, "20260102T000000Z-full", ())
    assert set(result.seconds) == set(STEPS)
    require_state(into, history)
    assert restore(archived, history.to, into) == result  # it is done, and says the same again


def test_latest_has_everything(archived: Settings, history: History, into: Path) -> None:
    result = restore(archived, None, into)
    assert result.to == read_catalogue(Target(archived.target)).slices[-1].to


def test_users_are_left_out_where_nobody_has_their_passwords(
    archived: Settings, history: History, into: Path, tmp_path: Path
) -> None:
    """A server that guards its data lets its host make the first user. Roles alone would keep it from that."""
    result = restore(archived, history.to, into, forget_users=True)
    server = GuardedMongod(tmp_path / "guarded")
    server.data = into / "data"
    try:
        server.start()
        with server.connect() as client:
            client.admin.command("createUser", "admin", pwd="fourth", roles=["root"])
        uri = server.uri.replace("mongodb://", "mongodb://admin:fourth@")
        with MongoClient[Document](f"{uri}&authSource=admin") as client:
            assert state_of(client)["shop"] == history.state["shop"]
            assert [user["user"] for user in client.admin.command("usersInfo")["users"]] == ["admin"]
    finally:
        server.stop()
    assert restore(archived, history.to, into, forget_users=True) == result
    with pytest.raises(BackupError, match="another restore"):
        restore(archived, history.to, into)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_goes_on_where_another_was_killed(archived: Settings, history: History, into: Path, step: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.integration.backup.killed_restore", step, str(into), history.to.hex],
        cwd=REPOSITORY,
        env={**os.environ, "LOYALTY_BACKUP_SETTINGS": str(archived.target.parent / "backup.toml")},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    begun: list[str] = []
    restore(archived, history.to, into, progress=lambda name, done, whole: begun.append(name))
    again = STEPS if step == "replay" else STEPS[STEPS.index(step) :]
    assert list(dict.fromkeys(begun)) == list(again)
    require_state(into, history)


def test_a_damaged_full_is_left_aside_for_the_one_before(settings: Settings, history: History, into: Path) -> None:
    repository = Target(settings.target).repository("20260102T000000Z")
    segment = max((repository / "data").rglob("*"), key=lambda path: path.stat().st_size)
    flip(segment, segment.stat().st_size // 2)
    result = restore(settings, history.to, into)
    assert result.archive == "20260101T000000Z-full"
    assert len(result.left_aside) == 1
    assert "20260102T000000Z-full" in result.left_aside[0]
    require_state(into, history)


def test_an_archive_that_was_found_damaged_is_gone_around_where_there_is_a_way(
    settings: Settings, history: History, into: Path
) -> None:
    target = Target(settings.target)
    found = [Result("full", "20260102T000000Z-full", "it is damaged")]
    note(target, read_catalogue(target), found, now=system_clock())
    assert planned(settings, history.to, into) == "20260101T000000Z-full"
    shutil.rmtree(target.chains / "20260101T000000Z")
    assert planned(settings, history.to, into) == "20260102T000000Z-full"


def planned(settings: Settings, to: ClusterTime, into: Path) -> str:
    """The archive that a restore would unpack; it is stopped before."""

    def stop(step: str, done: int, whole: int) -> None:
        if step == "unpack":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        restore(settings, to, into, progress=stop)
    noted = json.loads((into / "restore.json").read_text())
    shutil.rmtree(into)
    return str(noted["plan"]["archive"]["id"])


def test_no_archive_that_can_be_used(settings: Settings, history: History, into: Path) -> None:
    for chain in ("20260101T000000Z", "20260102T000000Z"):
        (Target(settings.target).repository(chain) / "config").unlink()
    with pytest.raises(Unreachable, match=r"borg says .* is before the first archive that can be used"):
        restore(settings, history.to, into)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "no manifest"])
def test_a_damaged_slice_is_named(settings: Settings, history: History, into: Path, damage: str) -> None:
    target = Target(settings.target)
    third = read_catalogue(target).slices[2]
    path = target.slice(third)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "flipped":
        flip(path, 1000)
    else:
        target.manifest(third).unlink()
    with pytest.raises(Unreachable) as refused:
        restore(settings, None if damage != "no manifest" else history.to, into)
    assert third.id in str(refused.value)
    assert (
        f"{seconds(history.older_base)} to {seconds(ClusterTime(max(third.from_.t - 1, history.older_base.t), 0))}"
        in (refused.value.remedy)
    )


def test_an_instant_outside_of_the_windows_is_refused_with_them(
    archived: Settings, history: History, into: Path
) -> None:
    last = read_catalogue(Target(archived.target)).slices[-1].to
    window = f"Can be restored: {seconds(history.older_base)} to {seconds(ClusterTime(last.t - 1, 0))}, and latest."
    with pytest.raises(Unreachable, match="is before the first archive") as refused:
        restore(archived, ClusterTime(history.older_base.t - 1, 0xFFFFFFFF), into)
    assert refused.value.remedy == window
    for after in (ClusterTime(last.t, 0xFFFFFFFF), ClusterTime(last.t + 60, 0xFFFFFFFF)):
        shutil.rmtree(into)
        with pytest.raises(Unreachable, match="is not archived to its end yet") as refused:
            restore(archived, after, into)
        assert refused.value.remedy == window


def test_a_folder_that_holds_something_else_is_left_alone(archived: Settings, history: History, into: Path) -> None:
    into.mkdir()
    (into / "precious").touch()
    with pytest.raises(BackupError, match="is not empty"):
        restore(archived, None, into)
    (into / "precious").unlink()
    with pytest.raises(Unreachable):
        restore(archived, ClusterTime(1, 0), into)
    (into / "restore.json").write_text('{"site": "bakery", "asked": "latest"}')
    with pytest.raises(BackupError, match="holds another restore"):
        restore(archived, history.to, into)


def test_two_do_not_restore_into_one_folder(archived: Settings, into: Path) -> None:
    into.mkdir()
    other = os.open(into, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(BackupError, match="Another run restores into"):
        restore(archived, None, into)
    os.close(other)


def test_a_mongod_of_another_release_is_refused(archived: Settings, into: Path, tmp_path: Path) -> None:
    other = tmp_path / "mongod"
    other.write_text("#!/bin/sh\necho db version v7.0.12\n")
    other.chmod(0o755)
    wrong = archived.model_copy(update={"restore": archived.restore.model_copy(update={"mongod": other})})
    with pytest.raises(BackupError, match=r"is 7\.0\.12; the archive is of a 6\.0\.5"):
        restore(wrong, None, into)


def test_a_second_is_asked_for_with_its_zone() -> None:
    at = int(datetime(2026, 11, 22, 14, 5, 7, tzinfo=timezone.utc).timestamp())
    assert parse_moment("2026-11-22T14:05:07Z") == ClusterTime(at, 0xFFFFFFFF)
    assert parse_moment("2026-11-22T15:05:07+01:00") == ClusterTime(at, 0xFFFFFFFF)
    assert parse_moment("latest") is None
    with pytest.raises(ValueError, match="zone"):
        parse_moment("2026-11-22T14:05:07")


def test_the_command_says_what_can_be_restored_and_where_it_is(
    archived: Settings, history: History, into: Path
) -> None:
    last = read_catalogue(Target(archived.target)).slices[-1].to
    stretch = f"{seconds(history.older_base)} to {seconds(ClusterTime(last.t - 1, 0))}"
    assert command(archived, "window").stdout == f"{stretch}\n"
    done = command(archived, "restore", "--to", "latest", "--into", str(into), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == str(into / "data")
    assert [line.split()[1] for line in done.stderr.splitlines()] == list(STEPS)
    refused = command(archived, "restore", "--to", "2020-01-01T00:00:00Z", "--into", f"{into}-2")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith(f"Can be restored: {stretch}, and latest.")
    assert command(archived, "restore", "--to", "yesterday", "--into", f"{into}-3").returncode == 2


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`loyalty-backup` with the settings."""
    return subprocess.run(
        [sys.executable, "-m", "loyalty.backup", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "LOYALTY_BACKUP_SETTINGS": str(settings.target.parent / "backup.toml")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def seconds(moment: ClusterTime) -> str:
    return f"{moment.instant:%Y-%m-%dT%H:%M:%SZ}"


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
