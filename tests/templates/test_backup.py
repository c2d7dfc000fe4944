"""What the role backup writes: settings the program accepts, doors for one thing each, timers that systemd knows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loyalty.backup.settings import load_settings
from tests.templates.render import SYSTEMS, render, value

systems = pytest.mark.parametrize("system", SYSTEMS)
KINDS = ("full", "incremental", "files", "dump", "verify", "prune", "drill", "log")


@systems
@pytest.mark.parametrize(("topology", "keeper"), [("three-server", "db2"), ("two-server", "db1"), ("ha", "backup1")])
def test_the_program_accepts_its_settings(topology: str, keeper: str, system: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.toml"
    file.write_text(render("backup/templates/backup.toml.j2", system, topology=topology, host=keeper), encoding="utf-8")
    settings = load_settings(file)
    assert not settings.allow_same_disk
    assert [member.address for member in settings.members] == {
        "three-server": ["db1:27017", "db2:27017", "box1:27017"],
        "two-server": ["db1:27017"],
        "ha": ["db1:27017", "db2:27017", "db3:27017"],
    }[topology]
    beside = [member.address for member in settings.members if member.beside_application]
    assert beside == (["box1:27017"] if topology == "three-server" else [])
    assert settings.log.every_seconds == 900
    assert settings.drill.within_days == 8
    assert "secret-of-" not in file.read_text(encoding="utf-8")


@systems
def test_the_program_is_told_how_fast_members_may_send(system: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.toml"
    asked = {"backup_rate_mb": 40, "backup_beside_app_rate_mb": 7}  # other than what either has by default
    file.write_text(render("backup/templates/backup.toml.j2", system, topology="one-box", host="box1", **asked))
    limits = load_settings(file).limits
    assert limits.megabytes_per_second == 40
    assert limits.beside_application_megabytes_per_second == 7


@systems
@pytest.mark.parametrize(
    ("topology", "keeper", "moved", "only_here"),
    [
        ("three-server", "db2", {}, []),
        ("three-server", "box1", {}, ["/mnt/storage"]),
        ("three-server", "db2", {"storage_mode": "gluster", "storage_hosts": ["db2"]}, ["/var/lib/loyalty-files"]),
        ("two-server", "db1", {}, ["/var/lib/mongodb"]),
        ("two-server", "box1", {}, ["/mnt/storage"]),
        ("one-box", "box1", {}, ["/var/lib/mongodb", "/mnt/storage"]),
        ("ha", "db1", {}, []),
        ("ha", "backup1", {}, []),
    ],
)
def test_the_target_must_not_share_a_disk_with_what_no_other_host_has(
    topology: str, keeper: str, moved: dict[str, Any], only_here: list[str], system: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.toml"
    overrides = {f"topology_{fact}": value for fact, value in moved.items()}
    file.write_text(render("backup/templates/backup.toml.j2", system, topology=topology, host=keeper, **overrides))
    assert [str(path) for path in load_settings(file).data_paths] == only_here


@systems
def test_backups_may_share_the_disk_of_the_data_where_that_is_meant(system: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.toml"
    file.write_text(render("backup/templates/backup.toml.j2", system, backup_same_disk_enabled=True))
    assert load_settings(file).allow_same_disk


@systems
def test_ssh_may_listen_elsewhere(system: str, tmp_path: Path) -> None:
    hosts = {name: {"address": f"192.0.2.{last}", "ssh_port": 2222} for name, last in (("box1", 11), ("db1", 12))}
    hosts["db2"] = {"address": "192.0.2.13", "ssh_port": 22}
    at_db2 = partial(render, system=system, topology="three-server", host="db2", topology_hosts=hosts)
    file = tmp_path / "backup.toml"
    file.write_text(at_db2("backup/templates/backup.toml.j2"), encoding="utf-8")
    settings = load_settings(file)
    assert [member.ssh_port for member in settings.members] == [2222, 22, 2222]
    assert settings.files is not None
    assert settings.files.ssh_port == 2222
    keys = {name: f"key-of-{name}" for name in hosts}
    known = tmp_path / "known_hosts"
    known.write_text(at_db2("backup/templates/known_hosts.j2", __backup_host_keys=keys))
    for sought, key in (("[box1]:2222", "box1"), ("[192.0.2.12]:2222", "db1"), ("db2", "db2")):
        found = subprocess.run(["ssh-keygen", "-F", sought, "-f", known], capture_output=True, text=True, check=False)
        assert found.stdout.split()[-1] == f"key-of-{key}", sought


@systems
def test_status_and_the_program_give_alarm_about_drills_at_the_same_time(system: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.toml"
    file.write_text(render("backup/templates/backup.toml.j2", system, verify_restore_drill_days=35), encoding="utf-8")
    assert load_settings(file).drill.within_days == 35


@systems
def test_the_log_may_be_archived_all_the_time(system: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.toml"
    file.write_text(
        render("backup/templates/backup.toml.j2", system, backup_log_continuous_enabled=True), encoding="utf-8"
    )
    assert load_settings(file).log.every_seconds == 5
    unit = render("backup/templates/loyalty-backup-log.service.j2", system, backup_log_continuous_enabled=True)
    assert "log --follow --metrics /var/lib/loyalty-backup/metrics/loyalty_backup.prom" in unit
    assert "Restart=always" in unit
    assert "WantedBy" not in render("backup/templates/loyalty-backup-log.service.j2", system)


@systems
@pytest.mark.parametrize(
    ("host", "doors"), [("db1", ["loyalty-backup-source"]), ("box1", ["loyalty-backup-source", "backup-files.conf"])]
)
def test_a_key_opens_one_thing_from_one_place(host: str, doors: list[str], system: str) -> None:
    lines = render("backup/templates/authorized_keys.j2", system, host=host, __backup_keeper="db2").splitlines()
    keys = [line for line in lines if not line.startswith("#")]
    assert len(keys) == len(doors)
    for key, door in zip(keys, doors, strict=True):
        assert re.match(r'restrict,from="192\.0\.2\.\d+",command="[^"]*' + re.escape(door), key)


@systems
def test_the_account_may_start_one_program_without_arguments(system: str) -> None:
    text = render("backup/templates/sudoers.j2", system)
    (rule,) = [line for line in text.splitlines() if not line.startswith("#")]
    assert rule == 'loyalty-backup ALL=(mongodb) NOPASSWD: /usr/local/lib/loyalty/loyalty-backup-source ""'


@systems
def test_files_are_read_and_never_written(system: str) -> None:
    text = render("backup/templates/backup-files.conf.j2", system)
    assert "read only = yes" in text
    assert "write only" not in text
    arrival = render("backup/templates/arrival.conf.j2", system)
    assert "write only = yes" in arrival
    assert "use chroot = yes" in arrival


@pytest.mark.skipif(  # never in CI, which installs the tool first (loyalty/ops/suite.py)
    shutil.which("systemd-analyze") is None, reason="the check is systemd's own, and this machine has none"
)
@systems
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_accepts_the_timer(kind: str, system: str, tmp_path: Path) -> None:
    timer = tmp_path / f"loyalty-backup-{kind}.timer"
    text = render("backup/templates/loyalty-backup.timer.j2", system, __backup_kind=kind)
    timer.write_text(text, encoding="utf-8")
    for name in ("loyalty-backup@.service", "loyalty-backup-log.service"):
        (tmp_path / name).write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n", encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(timer)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "loyalty-backup" in line] == []
    assert "Persistent=yes" in text
    when = re.search(r"OnCalendar=(.+)", text)
    assert when is not None
    subprocess.run(["systemd-analyze", "calendar", when[1]], check=True, capture_output=True, timeout=60)


CLOSED_AT = "2026-11-28T12:00:00+00:00"


def undo(rc: int, to: str = "", said: str = "") -> dict[str, Any]:
    """What the task that archives the last writes before a restore has registered."""
    windows = [{"from": "2026-11-01T00:00:00+00:00", "to": to}]
    return {"rc": rc, "stdout": json.dumps(windows) if rc == 0 else "", "stderr": f"{said}\n"}


@systems
@pytest.mark.parametrize(
    ("done", "at", "may_go_on", "said"),
    [
        (undo(0, "2026-11-28T12:00:07+00:00"), "2026-11-28T12:00:07Z", True, ""),
        (undo(0, "2026-11-28T11:59:58+00:00"), "", False, "Only what was written until 2026-11-28T11:59:58+00:00 is"),
        (undo(1, said="/mnt/backup has 0.0 GB free."), "", False, "/mnt/backup has 0.0 GB free."),
        (undo(124), "", False, "It takes longer than 900 s"),
        (undo(3, said="No member of the replica set serves reads."), "", True, "No member of the replica set"),
    ],
    ids=["archived", "in part", "full target", "timed out", "gone"],
)
def test_a_restore_goes_on_without_a_point_to_return_to_only_where_the_database_is_gone(
    done: dict[str, Any], at: str, may_go_on: bool, said: str, system: str
) -> None:
    found = partial(value, "backup", system=system, __backup_undo=done, __backup_closed_at=CLOSED_AT)
    assert found("__backup_undo_at") == at
    assert found("__backup_undo_can_be_missed") is (may_go_on and not at)
    assert found("__backup_undo_can_be_missed", backup_undo_required=False)
    if not at:
        assert str(found("__backup_undo_said")).startswith(said)
