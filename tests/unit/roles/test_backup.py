"""What the roles do for backups by code of their own: keys, the copy of the site's folder, data in another's place."""

from __future__ import annotations

import base64
import io
import os
import tarfile
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime, Target
from loyalty.backup.records import Run, note_run, raise_alarm
from loyalty.ops import bare_metal
from loyalty.ops.errors import Refusal
from tests.by_path import load

ROOT = Path(__file__).parents[3]


site_secrets = load("roles/topology/action_plugins/site_secrets.py")
pack_site = load("roles/backup/action_plugins/pack_site.py")
replace_data = load("roles/backup/library/replace_data.py")
edge_state = load("roles/verify/action_plugins/edge_state.py")
ed25519_public = load("roles/backup/filter_plugins/ed25519_public.py").ed25519_public
host_state = load("roles/verify/library/host_state.py")


@given(st.binary(min_size=32, max_size=32))
def test_an_identity_is_one_that_age_knows(key: bytes) -> None:
    text = site_secrets.age_identity(key)
    identity = pyrage.x25519.Identity.from_str(text)
    assert str(identity) == text
    assert pyrage.decrypt(pyrage.encrypt(b"log", [identity.to_public()]), [identity]) == b"log"


def test_the_public_half_is_the_one_that_the_ledger_prints() -> None:
    seed = base64.b64encode(bytes(range(32))).decode()
    # Of RFC 8032's arithmetic, for this seed.
    assert ed25519_public(seed) == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


def test_each_site_has_an_identity_of_its_own() -> None:
    made = {site_secrets.GENERATORS["age_identity"]() for _ in range(3)}
    assert len(made) == 3


class TestSiteFolder:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        files = {
            "sites/shop/vault.yml": "sealed",
            "sites/shop/.vault_password": "open sesame",
            "sites/shop/ca/ca.key": "key",
            "sites/shop/failover_drills.jsonl": "{}\n",
            "sites/shop/status.json": "{}",
            "sites/shop/servers/db1/console.log": "boot",
            "inventory/shop/hosts.yml": "loyalty:",
            "inventory/shop/group_vars/all/main.yml": "site_name: shop",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    def packed(self, site: Path) -> bytes:
        directory = site / "sites/shop"
        content: bytes = pack_site.packed(pack_site.contents(directory, [site / "inventory/shop"]))
        return content

    def test_holds_the_site_and_not_what_opens_it(self, site: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.packed(site))) as tar:
            names = tar.getnames()
        assert sorted(names) == [
            "inventory/shop/group_vars/all/main.yml",
            "inventory/shop/hosts.yml",
            "site/ca/ca.key",
            "site/failover_drills.jsonl",
            "site/vault.yml",
        ]

    def test_is_the_same_while_nothing_changes(self, site: Path) -> None:
        before = self.packed(site)
        os.utime(site / "sites/shop/vault.yml", (1, 1))
        (site / "sites/shop/doctor.json").write_text("{}")
        assert self.packed(site) == before
        (site / "sites/shop/vault.yml").write_text("sealed anew")
        assert self.packed(site) != before

    @pytest.fixture
    def drive(self, site: Path) -> Path:
        """A backup drive with a copy of the site's folder, written as the role does."""
        action = object.__new__(pack_site.ActionModule)
        target = site / "drive/site/20261128T120000Z"
        target.parent.mkdir(parents=True)
        action._write(site / "sites/shop", target, self.packed(site), "")
        return site / "drive"

    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Another machine, which knows nothing of the site."""
        home = tmp_path / "elsewhere"
        monkeypatch.setattr(bare_metal, "CHECKOUT", home)
        monkeypatch.setattr(bare_metal, "site_variables", lambda site: {"site_directory": home / "sites" / site})
        return home

    def test_comes_home_with_the_password_and_nothing_else(self, site: Path, drive: Path, checkout: Path) -> None:
        assert b"key" not in b"".join(path.read_bytes() for path in (drive / "site").iterdir())
        assert "20261128T120000Z" in bare_metal.bring_home("shop", drive, "open sesame")
        assert (checkout / "inventory/sites/shop/hosts.yml").read_text() == "loyalty:"
        assert (checkout / "sites/shop/ca/ca.key").read_text() == "key"
        assert (checkout / "sites/shop/.vault_password").read_text() == "open sesame\n"
        # Once more, after it stopped later on.
        bare_metal.bring_home("shop", drive, "open sesame")

    def test_comes_home_where_secrets_and_inventory_share_a_folder(
        self, site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`site_directory: "{{ inventory_dir }}"`, as docs/operator.md says."""
        (site / "inventory/shop/vault.yml").write_text("sealed")
        (site / "inventory/shop/.vault_password").write_text("open sesame")
        target = site / "drive/site/20261128T120000Z"
        target.parent.mkdir(parents=True)
        shared = site / "inventory/shop"
        action = object.__new__(pack_site.ActionModule)
        action._write(shared, target, pack_site.packed(pack_site.contents(shared, [shared])), "")
        home = checkout / "inventory/sites/shop"

        def from_inventory(_: str) -> dict[str, Any]:
            assert (home / "hosts.yml").exists(), "without an inventory there is no site"
            return {"site_directory": home}

        monkeypatch.setattr(bare_metal, "site_variables", from_inventory)
        bare_metal.bring_home("shop", site / "drive", "open sesame")
        assert (home / "hosts.yml").read_text() == "loyalty:"
        assert (home / "vault.yml").read_text() == "sealed"

    def test_does_not_open_with_another_password(self, drive: Path, checkout: Path) -> None:
        with pytest.raises(Refusal, match="does not open"):
            bare_metal.bring_home("shop", drive, "open barley")
        assert not checkout.exists()

    def test_does_not_replace_another_site_of_that_name(self, drive: Path, checkout: Path) -> None:
        (checkout / "sites/shop").mkdir(parents=True)
        (checkout / "sites/shop/vault.yml").write_text("of another site")
        with pytest.raises(Refusal, match="is there already"):
            bare_metal.bring_home("shop", drive, "open sesame")
        assert (checkout / "sites/shop/vault.yml").read_text() == "of another site"

    def test_a_copy_that_was_cut_off_gives_way_to_the_one_before(self, drive: Path, checkout: Path) -> None:
        for suffix in (".tar.vault", ".json"):
            whole = drive / f"site/20261128T120000Z{suffix}"
            (drive / f"site/20261129T120000Z{suffix}").write_bytes(whole.read_bytes())
        torn = drive / "site/20261129T120000Z.tar.vault"
        torn.write_bytes(torn.read_bytes()[:-100])
        assert "20261128T120000Z" in bare_metal.bring_home("shop", drive, "open sesame")


class PowerCut(Exception):
    """The run ends here."""


class TestReplacedData:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        path = tmp_path / "mongodb"
        for name, text in {"WiredTiger": "old", "journal/log": "old", ".arrived/WiredTiger": "new"}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        return path

    def run(self, path: Path, arrived: str = ".arrived") -> dict[str, Any]:
        params = {"path": str(path), "id": "r1", "arrived": arrived, "owner": "root"}
        done: dict[str, Any] = replace_data.run(params, check_mode=False)
        return done

    def content(self, path: Path) -> dict[str, str]:
        """What the database finds there: not what was moved aside within it."""
        files = (file for file in path.rglob("*") if file.is_file() and file.name != replace_data.MARK)
        found = {str(file.relative_to(path)): file.read_text() for file in files}
        return {name: text for name, text in found.items() if not name.startswith(".before-")}

    @pytest.fixture(params=[False, True], ids=["renamed", "own-disk"])
    def own_disk(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
        monkeypatch.setattr(os.path, "ismount", lambda path: request.param)
        return bool(request.param)

    def test_what_arrived_takes_its_place(self, data: Path, own_disk: bool) -> None:
        done = self.run(data)
        assert done["changed"]
        assert self.content(data) == {"WiredTiger": "new"}
        assert data.stat().st_mode & 0o777 == 0o700
        assert done["aside"] == str(data / ".before-r1" if own_disk else data.with_name("mongodb.before-r1"))
        assert self.content(Path(done["aside"])) == {"WiredTiger": "old", "journal/log": "old"}
        assert not self.run(data)["changed"]

    def test_each_restore_keeps_what_it_found_and_leaves_what_others_kept(self, data: Path, own_disk: bool) -> None:
        first = self.run(data)
        second = replace_data.run({"path": str(data), "id": "r2", "arrived": "", "owner": "root"}, check_mode=False)
        assert self.content(Path(first["aside"])) == {"WiredTiger": "old", "journal/log": "old"}
        assert self.content(Path(second["aside"])) == {"WiredTiger": "new"}

    def test_a_member_that_copies_gets_an_empty_folder(self, data: Path, own_disk: bool) -> None:
        self.run(data, arrived="")
        assert self.content(data) == {}

    def test_a_folder_that_was_lost_is_made(self, tmp_path: Path) -> None:
        done = self.run(tmp_path / "gone", arrived="")
        assert (done["changed"], done["aside"]) == (True, "")
        assert (tmp_path / "gone").is_dir()

    def test_a_run_that_is_cut_off_anywhere_is_gone_on_with(
        self, tmp_path: Path, own_disk: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The power fails before the first change, then before the second, and so on; the run is repeated each time."""
        survived, cut = 0, True
        while cut:
            data = tmp_path / str(survived) / "mongodb"
            for name in ("WiredTiger", "a/b", ".arrived/WiredTiger", ".arrived/c/d"):
                (data / name).parent.mkdir(parents=True, exist_ok=True)
                (data / name).write_text("new" if name.startswith(".arrived") else "old")
            with monkeypatch.context() as patched:
                self.fail_after(survived, patched)
                try:
                    self.run(data)
                    cut = False
                except PowerCut:
                    survived += 1
            done = self.run(data)
            assert self.content(data) == {"WiredTiger": "new", "c/d": "new"}
            assert self.content(Path(done["aside"])) == {"WiredTiger": "old", "a/b": "old"}
        assert survived > 2

    def fail_after(self, changes: int, patched: pytest.MonkeyPatch) -> None:
        left = iter(range(changes))

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def once(*args: Any, **options: Any) -> Any:
                if next(left, None) is None:
                    raise PowerCut
                return change(*args, **options)

            return once

        for name in ("rename", "unlink", "touch", "rmdir", "mkdir", "write_text", "replace"):
            patched.setattr(Path, name, counted(getattr(Path, name)))


class TestWhatStatusReads:
    """The files of a target as the backup program writes them, read by a module that has nothing but Python."""

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        target = Target(tmp_path)
        target.marker.write_text('{"format": 1, "site": "shop", "created_at": "2026-11-01T09:00:00Z"}')
        return target

    def run(self, kind: str, day: int, *, error: str | None = None) -> Run:
        at = f"2026-11-{day:02}T01:42:00Z"
        return Run(kind=kind, began=at, ended=at, ok=error is None, error=error)

    def test_a_new_target_has_nothing_yet(self, target: Target) -> None:
        nothing: dict[str, object] = {"alarms": [], "last": {}, "good": {}, "log_reaches": None, "drill": None}
        nothing |= {"second_copy": False, "log_continuous": False, "running": [], "recent": []}
        assert host_state.backup_state(target.root) == {"created_at": "2026-11-01T09:00:00Z", **nothing}

    def test_a_folder_that_is_not_mounted_is_an_error(self, tmp_path: Path) -> None:
        assert "No such file" in host_state.backup_state(tmp_path)["error"]

    def test_the_last_run_of_each_kind_and_the_last_good_one(self, target: Target) -> None:
        for run in (self.run("full", 26), self.run("files", 26), self.run("full", 27, error="no room")):
            note_run(target, run)
        with (target.root / "history.jsonl").open("a") as history:
            history.write('{"kind": "full", "began": "2026-')  # a power cut
        found = host_state.backup_state(target.root)
        assert found["last"]["full"] == {"ended": "2026-11-27T01:42:00Z", "ok": False, "error": "no room"}
        assert found["good"] == {"full": "2026-11-26T01:42:00Z", "files": "2026-11-26T01:42:00Z"}

    def test_how_far_the_log_reaches(self, target: Target) -> None:
        target.log.mkdir()
        moments = [ClusterTime(1_795_000_000 + 900 * number, number) for number in range(4)]
        for from_, to in pairwise(moments):
            (target.log / f"{from_.hex}-{to.hex}.json").touch()
        reached = datetime.fromtimestamp(1_795_002_700, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert host_state.backup_state(target.root)["log_reaches"] == reached

    def test_alarms_and_the_last_drill(self, target: Target) -> None:
        raise_alarm(target, "log", BackupError("The log has a gap.", "Type: loyalty-backup full"))
        (target.root / "restore_drills.jsonl").write_text('{"ok": false}\n{"ok": true}\n')
        found = host_state.backup_state(target.root)
        assert found["alarms"] == ["log: The log has a gap. Type: loyalty-backup full"]
        assert found["drill"] == {"ok": True}

    def test_whether_the_log_is_archived_all_the_time(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = target.root / "loyalty-backup-log.service"
        monkeypatch.setattr(host_state, "BACKUP_LOG_WANTED", wanted)
        assert "loyalty-backup-log.timer" in host_state.backup_units()
        wanted.touch()
        assert host_state.backup_state(target.root)["log_continuous"]
        assert "loyalty-backup-log.service" in host_state.backup_units()

    def test_whether_a_second_copy_is_wanted(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = target.root / "backup.toml"
        monkeypatch.setattr(host_state, "BACKUP_SETTINGS", settings)
        settings.write_text("[retention]\ndays = 30\n")
        assert not host_state.backup_state(target.root)["second_copy"]
        assert "loyalty-backup-copy.timer" not in host_state.backup_units()
        settings.write_text('[retention]\ndays = 30\n\n[second_copy]\nto = "/mnt/far"\n')
        assert host_state.backup_state(target.root)["second_copy"]
        assert "loyalty-backup-copy.timer" in host_state.backup_units()


def test_every_drawn_connection_is_tried_and_ssh_is_not_expected_closed() -> None:
    edges = [
        {"from": "admin", "to": "db1", "service": "ssh", "port": 22, "why": "administration"},
        {"from": "keep1", "to": "db1", "service": "ssh", "port": 22, "why": "backups"},
        {"from": "keep1", "to": "db1", "service": "mongodb", "port": 27017, "why": "backups"},
    ]
    hosts = ["box1", "db1", "keep1"]
    mine = {probe["port"]: probe for probe in edge_state.probes("keep1", hosts, edges)}
    assert all(probe["drawn"] for probe in mine.values())
    assert {port: probe["tls"] for port, probe in mine.items()} == {22: False, 27017: True}
    assert [(probe["port"], probe["drawn"]) for probe in edge_state.probes("box1", hosts, edges)] == [(27017, False)]
