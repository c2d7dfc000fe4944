"""The commands that keep what there is whole and within its room, as an operator types them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from loyalty.backup.certificate import Certificate
from loyalty.backup.cli import main
from loyalty.backup.manifest import Target, read_catalogue
from loyalty.backup.records import Run as Ran
from loyalty.backup.records import alarms, append_line, note_run, noted, runs
from loyalty.backup.space import Sample
from loyalty.files.store import BlobStore
from tests.integration.backup.kept import IDENTITY, PASSPHRASE, Kept, at, marker

SETTINGS = """
site = "acme"
target = "{folder}/target"
allow_same_disk = true
reserve_megabytes = 1

[database]
replica_set = "loyalty"

[[members]]
address = "db1:27017"
command = ["/nowhere"]

[files]
path = "{folder}/storage"

[second_copy]
to = "{folder}/far"
allow_same_disk = true
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "backup.toml").write_text(SETTINGS.format(folder=tmp_path))
    (tmp_path / "backup_passphrase").write_text(PASSPHRASE)
    (tmp_path / "backup_identity").write_text(str(IDENTITY))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--settings", str(tmp_path / "backup.toml"), *arguments])

    return run


@pytest.fixture
def kept(original: Path, tmp_path: Path) -> Kept:
    """Everything."""
    return Kept.copied(original, tmp_path / "target")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "storage" / "files").mkdir(parents=True)
    return tmp_path / "storage"


def put(storage: Path, content: bytes) -> str:
    with BlobStore(storage / "files", reserve_bytes=0).receive(1 << 20, expected_bytes=1) as incoming:
        incoming.write(content)
        incoming.place(lambda: None)
        return incoming.content().sha256


@pytest.fixture
def empty(tmp_path: Path) -> Target:
    target = Target(tmp_path / "target")
    for folder in (target.root, target.chains, target.log, target.dumps, target.files):
        folder.mkdir()
    target.marker.write_text(marker(datetime.now(timezone.utc)))
    return target


def test_files_takes_a_snapshot_and_once_a_day_the_second_copy(empty: Target, storage: Path, run: Run) -> None:
    digest = put(storage, b"content")
    done = run("files", "--json")
    assert done.exit_code == 0, done.output
    snapshot = json.loads(done.output)
    assert snapshot["entries"] == 1
    assert (empty.files / snapshot["id"] / "files" / BlobStore.relative(digest)).read_bytes() == b"content"
    assert (empty.files / "repository" / "config").exists()
    (history,) = runs(empty)
    assert (history.kind, history.id, history.ok) == ("files", snapshot["id"], True)
    folder = run("files", "--of", "2026-11-28T14:05:07Z").output.strip()
    assert folder == run("files", "--of", "latest").output.strip() == str(empty.files / snapshot["id"])
    assert "Say" not in run("files", "--of", "yesterday").output
    assert run("files", "--of", "yesterday").exit_code == 2


def test_files_that_somebody_encrypted_raise_an_alarm_and_are_not_restored(
    empty: Target, storage: Path, run: Run
) -> None:
    digest = put(storage, b"content")
    assert run("files").exit_code == 0
    good = run("files", "--of", "latest").output
    (storage / "files" / BlobStore.relative(digest)).write_bytes(b"pay us")
    done = run("files")
    assert done.exit_code == 1
    assert "not what their names say" in done.output
    assert "ransomware" in alarms(empty)["files"]
    assert run("files", "--of", "latest").output == good
    assert run("verify").exit_code == 1  # and reading it again does not make it good
    assert run("files", "--of", "latest").output == good


def test_verify_says_what_is_whole_and_what_is_not(kept: Kept, run: Run) -> None:
    done = run("verify", at(100).stamp)
    assert done.exit_code == 0, done.output
    assert f"chain        {at(100).stamp}" in done.output
    piece = read_catalogue(kept.target).slices[0]
    os.truncate(kept.target.slice(piece), 10)
    done = run("verify", piece.id)
    assert done.exit_code == 1
    assert f"log/{piece.id}: {kept.target.slice(piece)} is not as it was written" in done.output
    assert "prune --damaged" in alarms(kept.target)["verify"]
    assert run("verify", "nothing").exit_code == 1
    done = run("prune", "--damaged")
    assert done.exit_code == 0, done.output
    assert piece not in read_catalogue(kept.target).slices
    assert "verify" not in alarms(kept.target) or piece.id not in alarms(kept.target)["verify"]


def drilled(target: Target, days_ago: float, *, ok: bool = True) -> Certificate:
    """Note a drill of that time."""
    began = datetime.now(timezone.utc) - timedelta(days=days_ago)
    found = Certificate(
        id=began.strftime("%Y%m%dT%H%M%SZ"),
        site="acme",
        at=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        ok=ok,
        verified=ok,
        rto_seconds=14.2,
        rpo_seconds=31.0,
        restored_to=began.isoformat(),
        entries=300,
        members=20,
        seals=2,
        sealed_entries=300,
        available={"points": 1000},
        files=2,
        archive=f"{at(100).stamp}-full",
        chain=at(100).stamp,
        slices=1,
        log_entries=10,
        server_version="6.0.5",
        seconds={},
        defects=(),
        agent="test",
    )
    append_line(target.root / "restore_drills.jsonl", found)
    return found


def test_eight_days_without_a_proven_restore_are_an_alarm(kept: Kept, run: Run) -> None:
    """They count from the last drill that was passed, and before there is any from when the target was made."""
    verify = ("verify", read_catalogue(kept.target).slices[0].id)
    run(*verify)
    assert "proof" not in alarms(kept.target)  # a new target
    assert "proven       none" in run("status").output
    kept.target.marker.write_text(marker(datetime.now(timezone.utc) - timedelta(days=9)))
    run(*verify)
    assert "Nothing that is kept here was ever restored" in alarms(kept.target)["proof"]
    drilled(kept.target, 8.5)
    drilled(kept.target, 1, ok=False)
    run(*verify)
    assert "8 days ago" in alarms(kept.target)["proof"]
    assert (done := run("status")).exit_code == 1
    assert "ALARM: What is kept here was last restored and proven 8 days ago" in done.output
    last = drilled(kept.target, 7.5)
    run(*verify)
    assert "proof" not in alarms(kept.target)
    assert f"proven       7.5 d ago, {last.id}, in 14 s; the last 31 s would have been lost" in run("status").output
    found = json.loads(run("status", "--json").output)["proven"]
    assert (found["id"], found["rto_seconds"], found["rpo_seconds"]) == (last.id, 14.2, 31.0)
    assert "loyalty_backup_proven_timestamp_seconds" in run("metrics").output


def test_a_proof_from_the_future_is_an_alarm_until_there_is_another(kept: Kept, run: Run) -> None:
    """This host's clock was ahead by a year during a drill: by its age that proof would do for as long."""
    verify = ("verify", read_catalogue(kept.target).slices[0].id)
    ahead = drilled(kept.target, -365)
    run(*verify)
    assert "last proven 365 days in the future" in alarms(kept.target)["proof"]
    assert ahead.id in json.loads(run("status", "--json").output)["alarms"]["clock"]
    drilled(kept.target, 0)
    run(*verify)
    assert "proof" not in alarms(kept.target)
    assert "clock" not in json.loads(run("status", "--json").output)["alarms"]


def test_the_last_chain_does_not_go_even_when_it_is_damaged(kept: Kept, run: Run) -> None:
    for one in read_catalogue(kept.target).chains:
        for segment in (kept.target.repository(one.id) / "data" / "0").iterdir():
            os.truncate(segment, segment.stat().st_size // 2)
        run("verify", one.id)
    done = run("prune", "--damaged")
    assert (done.exit_code, "no chain left" in done.output) == (1, True)
    assert len(read_catalogue(kept.target).chains) == 2


def test_copies_of_the_sites_folder_all_stay_but_what_is_damaged_may_go(kept: Kept, run: Run) -> None:
    """When the newest has gone, the next run of a playbook leaves one anew."""
    first, last = kept.site_copy(-400 * 86_400), kept.site_copy(150)
    assert f"site         {last.name[:16]}" in run("list").output
    assert f"ago, {last.name[:16]}" in next(
        line for line in run("status").output.splitlines() if line.startswith("site")
    )
    os.truncate(last, 10)
    assert run("verify", last.name[:16]).exit_code == 1
    assert "keep  site" in run("prune", "--dry-run").output
    assert run("prune").exit_code == 0
    assert (first.exists(), last.exists()) == (True, True)
    assert run("prune", "--damaged").exit_code == 0
    assert [path.name for path in sorted(first.parent.iterdir())] == [f"{first.name[:16]}.json", first.name]
    assert alarms(kept.target) == {}


def test_prune_explains_and_then_does_it(kept: Kept, run: Run, tmp_path: Path) -> None:
    with (tmp_path / "backup.toml").open("a") as settings:
        settings.write("[retention]\ndays = 1\nweeks = 0\nmonths = 0\n")
    day = 86_400
    for begin in (-80, -40):
        kept.chain(begin * day)
        kept.slice(begin * day, (begin + 20) * day)
    kept.dump(-80 * day)
    before = read_catalogue(kept.target)
    done = run("prune", "--dry-run")
    assert done.exit_code == 0
    assert f"GO    chain  {at(-80 * day).stamp}" in done.output
    assert f"keep  chain  {at(-40 * day).stamp}           the window's first seconds" in done.output
    assert "keep  log    7 slices" in done.output
    assert "GO    log    1 slices" in done.output
    assert read_catalogue(kept.target) == before
    assert run("prune").exit_code == 0
    after = read_catalogue(kept.target)
    assert [chain.id for chain in after.chains] == [at(begin).stamp for begin in (-40 * day, 0, 100)]
    assert (len(after.slices), len(after.dumps), len(after.files)) == (7, 2, 2)
    assert sorted(path.name for path in kept.target.chains.iterdir()) == [chain.id for chain in after.chains]
    assert len(list(kept.target.log.glob("*.slice"))) == 7
    assert run("prune").output.startswith("0 of")


def test_prune_warns_before_the_target_is_full(kept: Kept, run: Run) -> None:
    """It grew by a fifth of what is free each day."""
    space = os.statvfs(kept.target.root)
    free = space.f_bavail * space.f_frsize
    used = (space.f_blocks - space.f_bfree) * space.f_frsize
    now = datetime.now(timezone.utc)
    for days in range(5, 0, -1):
        append_line(
            kept.target.root / "space.jsonl", Sample(now - timedelta(days=days), used - days * free // 5, used + free)
        )
    assert run("prune").exit_code == 0
    soon = (now + timedelta(days=5)).strftime("%Y-%m")
    assert f"will be full on {soon}" in alarms(kept.target)["room"]
    found = json.loads(run("status", "--json").output)
    assert found["forecast"]["full_at"].startswith(soon)
    assert found["forecast"]["growth_bytes_per_day"] == pytest.approx(free / 5, rel=0.05)


def test_copy_wants_a_folder_that_it_knows(kept: Kept, run: Run, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    done = run("copy")
    assert (done.exit_code, "copy --init" in done.output) == (1, True)
    assert "copy" in alarms(kept.target)
    done = run("copy", "--init", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["archives"] == 13
    assert alarms(kept.target) == {}
    assert json.loads(run("copy", "--json").output)["archives"] == 0


def test_a_copy_on_the_disk_of_what_it_copies_is_refused_unless_told(kept: Kept, run: Run, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    settings = tmp_path / "backup.toml"
    told = settings.read_text()
    settings.write_text(told.replace('/far"\nallow_same_disk = true', '/far"'))
    done = run("copy", "--init")
    assert done.exit_code == 1
    assert "far is on the same disk as" in done.output
    assert "backup_copy_same_disk_enabled: true" in alarms(kept.target)["copy"]
    assert list((tmp_path / "far").iterdir()) == []
    settings.write_text(told)
    assert run("copy", "--init").exit_code == 0
    assert alarms(kept.target) == {}


def test_status_says_what_runs_and_what_ran(kept: Kept, run: Run) -> None:
    def ran(kind: str, minute: int, *, error: str | None = None) -> None:
        began, ended = (f"2026-11-28T0{hour}:{minute:02}:00Z" for hour in (1, 2))
        note_run(
            kept.target,
            Ran(kind=kind, began=began, ended=ended, ok=error is None, bytes=1_500_000, error=error),
        )

    ran("incremental", 0)
    ran("prune", 1, error="It is full. Make room.")
    for minute in range(2, 50):
        ran("log", minute)
    with noted(kept.target, "full") as outcome, noted(kept.target, "drill") as drill:
        outcome.progress(1_200_000_000, 2_700_000_000)
        drill.progress(3, 4, step="verify")
        said = run("status").output
        found = json.loads(run("status", "--json").output)
    assert re.search(r"runs now     drill since 20\d\d-.* UTC: verify, 75 %\n", said)
    assert re.search(r"runs now     full since 20\d\d-.* UTC: 1,200 of 2,700 MB \(44 %\)\n", said)
    assert "run          2026-11-28 01:00:00 UTC  incremental     1.0 h           1.5 MB\n" in said
    assert "run          2026-11-28 01:01:00 UTC  prune           1.0 h  FAILED: It is full. Make room.\n" in said
    assert [(one["kind"], one["done"]) for one in found["running"]] == [("drill", 3), ("full", 1_200_000_000)]
    assert [(one["kind"], one["ok"]) for one in found["recent"]] == [("incremental", True), ("prune", False)]
    assert "runs now" not in run("status").output


def test_metrics_are_what_prometheus_reads(kept: Kept, run: Run, tmp_path: Path) -> None:
    run("verify", at(100).stamp)
    output = tmp_path / "loyalty_backup.prom"
    assert run("metrics", "--output", str(output)).exit_code == 0
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(output.read_text())
        for sample in family.samples
    }
    assert found["loyalty_backup_newest_timestamp_seconds", "log"] == at(300).t
    assert found["loyalty_backup_newest_timestamp_seconds", "full"] == at(100).t
    assert found["loyalty_backup_run_ok", "verify"] == 1
    assert found["loyalty_backup_verified_timestamp_seconds", "chain"] > at(0).t - 10**9
    assert found["loyalty_backup_alarms",] == 0
    assert found["loyalty_backup_free_bytes",] > 0
    assert "loyalty_backup_alarms 0" in run("metrics").output
