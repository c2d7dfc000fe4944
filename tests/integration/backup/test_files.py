"""Snapshots of a real file store, with real rsync and borg: complete, shared, resumed, never blind to what changed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from loyalty.backup import files
from loyalty.backup.files import FilesError, Source, absent, mismatches, snapshot_for, take
from loyalty.backup.manifest import Archive, ClusterTime, Target, read_catalogue, read_manifest, write_manifest
from loyalty.backup.retention import FILES_GRACE
from loyalty.files.service import ORPHAN_GRACE
from loyalty.files.store import BlobStore

NOW = datetime(2026, 11, 28, 2, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


@pytest.fixture
def target(tmp_path: Path) -> Target:
    target = Target(tmp_path / "target")
    for folder in (target.root, target.chains, target.log, target.dumps, target.files):
        folder.mkdir()
    return target


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """What the application has at its storage path."""
    path = tmp_path / "storage"
    for folder in ("files/incoming", "files/locks", "seals", "backups"):
        (path / folder).mkdir(parents=True)
    return path


@pytest.fixture
def source(storage: Path) -> Source:
    return Source(str(storage))


def put(storage: Path, content: bytes) -> str:
    """Store a content as the application does; its SHA-256."""
    store = BlobStore(storage / "files", reserve_bytes=0)
    with store.receive(1 << 30, expected_bytes=len(content)) as incoming:
        incoming.write(content)
        incoming.place(lambda: None)
        return incoming.content().sha256


def blob(root: Path, digest: str) -> Path:
    return root / "files" / BlobStore.relative(digest)


def archived(target: Target, seconds: int) -> ClusterTime:
    """Pretend that the log is archived up to so many seconds after NOW."""
    moment = ClusterTime(int(NOW.timestamp()) + seconds, 1)
    slice = Archive(
        kind="log",
        id=f"{ClusterTime(0, 0).hex}-{moment.hex}",
        from_=ClusterTime(0, 0),
        to=moment,
        at=moment.instant.isoformat(),
        server="db1:27017",
        agent="test",
    )
    target.slice(slice).touch()
    write_manifest(target, slice)
    return moment


def test_a_snapshot_has_what_the_store_had_and_nothing_that_passes(
    target: Target, storage: Path, source: Source
) -> None:
    digests = [put(storage, os.urandom(1000)) for _ in range(5)]
    (storage / "seals" / "bakery-2026-11-27.json").write_text("{}")
    (storage / "files" / "incoming" / "x.part").write_text("under way")
    (storage / "backups" / "own").write_text("somebody's")
    snapshot, wrong = take(target, source, now=NOW)
    tree = target.files / snapshot.id
    assert wrong == ()
    assert sorted(path.name for path in tree.rglob("*") if path.is_file()) == sorted(
        [*digests, "bakery-2026-11-27.json"]
    )
    assert snapshot.entries == 6
    assert snapshot.bytes == snapshot.stored_bytes == 5002
    assert read_catalogue(target).files == (snapshot,)
    assert list(mismatches(target, snapshot)) == []
    # By hand, without this program.
    subprocess.run(["sha256sum", "--check", "--quiet", f"../{snapshot.id}.sha256"], cwd=tree, check=True)


def test_what_did_not_change_is_shared_with_the_snapshot_before(target: Target, storage: Path, source: Source) -> None:
    old = put(storage, b"old")
    gone = put(storage, b"gone")
    first = take(target, source, now=NOW).snapshot
    new = put(storage, b"new")
    blob(storage, gone).unlink()
    second = take(target, source, now=NOW + SECOND).snapshot
    assert blob(target.files / first.id, old).samefile(blob(target.files / second.id, old))
    assert (second.predecessor, second.entries, second.stored_bytes) == (first.id, 2, 3)
    assert absent(target.files / first.id, [old, new, gone]) == [new]
    assert absent(target.files / second.id, [old, new, gone]) == [gone]
    files.remove(target, first)
    assert list(mismatches(target, second)) == []
    assert read_catalogue(target).files == (second,)


def test_the_checksum_of_an_unchanged_inode_is_that_of_its_arrival(
    target: Target, storage: Path, source: Source
) -> None:
    """A block that rotted must not be declared sound by the next snapshot."""
    digest = put(storage, b"a" * 1000)
    first = take(target, source, now=NOW).snapshot
    rot(blob(target.files / first.id, digest))
    second = take(target, source, now=NOW + SECOND)
    assert second.wrong == ()
    for snapshot in (first, second.snapshot):
        assert [problem for problem in mismatches(target, snapshot) if "not as it was written" in problem]


def rot(path: Path) -> None:
    """Change a byte behind the file system's back: size and times stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_contents_that_are_not_what_their_names_say_are_named(target: Target, storage: Path, source: Source) -> None:
    """A broken disk of the application, or somebody who encrypts its files."""
    digests = [put(storage, os.urandom(100)) for _ in range(3)]
    first = take(target, source, now=NOW).snapshot
    blob(storage, digests[1]).write_bytes(b"pay us")
    snapshot, wrong = take(target, source, now=NOW + SECOND)
    assert wrong == (f"files/{BlobStore.relative(digests[1])}",)
    assert list(mismatches(target, first)) == []  # what was there before is untouched
    assert [problem for problem in mismatches(target, snapshot) if "not what its name says" not in problem] == []


@pytest.mark.parametrize("harm", ["rot", "missing", "more", "list"])
def test_reading_again_finds_every_harm(target: Target, storage: Path, source: Source, harm: str) -> None:
    digests = [put(storage, os.urandom(100)) for _ in range(20)]
    snapshot = take(target, source, now=NOW).snapshot
    tree = target.files / snapshot.id
    victim = blob(tree, random.choice(digests))
    if harm == "rot":
        rot(victim)
    elif harm == "missing":
        victim.unlink()
    elif harm == "more":
        (victim.parent / "more").write_text("x")
    else:
        rot(target.files / f"{snapshot.id}.sha256")
    assert len(list(mismatches(target, snapshot))) == 1


def test_a_restored_tree_is_read_and_held_against_the_list(
    target: Target, storage: Path, source: Source, tmp_path: Path
) -> None:
    digests = [put(storage, os.urandom(100)) for _ in range(3)]
    (storage / "seals" / "2026-11-27.json").write_text("{}")
    snapshot = take(target, source, now=NOW).snapshot
    assert list(files.restore(target, snapshot, tmp_path / "first")) == []
    assert absent(tmp_path / "first", digests) == []
    assert (tmp_path / "first" / "seals" / "2026-11-27.json").read_text() == "{}"
    tree = target.files / snapshot.id
    rot(blob(tree, digests[0]))
    blob(tree, digests[1]).unlink()
    assert sorted(files.restore(target, snapshot, tmp_path / "second")) == sorted(
        [f"{blob(tree, digests[0])} is not as it was written", f"{blob(tree, digests[1])} is missing"]
    )
    assert absent(tmp_path / "second", digests) == [digests[1]]


def test_names_that_sha256sum_has_to_escape(target: Target, storage: Path, source: Source) -> None:
    for name in ("new\nline", "back\\slash", "both\\\n", "blank  s", os.fsdecode(b"\xff")):
        (storage / "seals" / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    snapshot = take(target, source, now=NOW).snapshot
    assert list(mismatches(target, snapshot)) == []
    subprocess.run(
        ["sha256sum", "--check", "--quiet", f"../{snapshot.id}.sha256"], cwd=target.files / snapshot.id, check=True
    )


def test_links_and_devices_of_the_store_are_not_followed(target: Target, storage: Path, source: Source) -> None:
    (storage / "seals" / "link").symlink_to("/etc/passwd")
    (storage / "seals" / "folder").symlink_to("/etc")
    os.mkfifo(storage / "seals" / "pipe")
    snapshot = take(target, source, now=NOW).snapshot
    assert list((target.files / snapshot.id / "seals").iterdir()) == []


def test_a_store_that_is_not_mounted_is_no_snapshot(target: Target, storage: Path, source: Source) -> None:
    for _ in range(3):
        put(storage, os.urandom(10))
    first = take(target, source, now=NOW).snapshot
    shutil.rmtree(storage / "files")
    with pytest.raises(FilesError, match=r"has 0 files; the snapshot .* has 3.*--accept-loss"):
        take(target, source, now=NOW + SECOND)
    assert read_catalogue(target).files == (first,)
    assert take(target, source, now=NOW + SECOND, accept_loss=True).snapshot.entries == 0
    storage.rename(storage.with_name("away"))
    with pytest.raises(FilesError, match="mounted"):
        take(target, source, now=NOW + 2 * SECOND)


def test_a_clock_that_went_back_keeps_the_order(target: Target, source: Source) -> None:
    first = take(target, source, now=NOW).snapshot
    second = take(target, source, now=NOW - timedelta(days=1)).snapshot
    assert second.id == (NOW + SECOND).strftime("%Y%m%dT%H%M%SZ") > first.id


# ── With the database ─────────────────────────────────────────────────────────


def test_the_grace_of_the_store_is_what_retention_counts_on() -> None:
    assert ORPHAN_GRACE == FILES_GRACE


def test_every_file_of_a_restored_record_is_in_the_snapshot_that_goes_with_it(
    target: Target, storage: Path, source: Source
) -> None:
    """The store lives on while snapshots are taken: files come, go, and are swept when their grace is over.

    Time is simulated in hours; the log is archived each hour, and the snapshot of that hour begins after it.
    """
    dice = random.Random(5)
    life: dict[str, tuple[int, int]] = {}  # content: hours of its record
    for hour in range(24 * 6):
        for digest, (_, end) in life.items():
            if end + FILES_GRACE // timedelta(hours=1) == hour:
                blob(storage, digest).unlink()
        if dice.random() < 0.6:
            life[put(storage, os.urandom(20))] = (hour, hour + dice.choice([1, 1, 2, 30, 1000]))
        archived(target, hour * 3600)
        if dice.random() < 0.3 or hour % 24 == 0:
            # Begun an hour late: what came in between may be in it or not.
            take(target, source, now=NOW + timedelta(hours=hour, seconds=1), accept_loss=True)
    snapshots = read_catalogue(target).files
    newest = snapshots[-1].to
    for hour in range(24 * 6):
        moment = ClusterTime(int(NOW.timestamp()) + hour * 3600, 1)
        snapshot = snapshot_for(snapshots, moment)
        assert snapshot is not None
        referred = [digest for digest, (begin, end) in life.items() if begin <= hour < end]
        if moment <= newest:
            assert absent(target.files / snapshot.id, referred) == []


def test_a_snapshot_says_up_to_where_the_log_was_archived_before_it_began(target: Target, source: Source) -> None:
    assert take(target, source, now=NOW).snapshot.to == ClusterTime(int(NOW.timestamp()), 0)
    for seconds in (5, 90):
        moment = archived(target, seconds)
        snapshot = take(target, source, now=NOW + timedelta(hours=1)).snapshot
        assert snapshot.to == moment
        assert snapshot.at == moment.instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_what_the_log_reaches_while_a_snapshot_is_taken_does_not_count(
    target: Target, remote: Source, tmp_path: Path
) -> None:
    late = archived(target, 20)
    held_back = tmp_path / "held-back"
    target.log.rename(held_back)
    target.log.mkdir()
    early = archived(target, 10)
    assert remote.shell is not None
    shell = Path(remote.shell)
    shell.write_text(shell.read_text().replace("exec", f"cp {held_back}/* {target.log}/\nexec"))
    assert take(target, remote, now=NOW).snapshot.to == early
    assert take(target, remote, now=NOW + SECOND).snapshot.to == late


def test_the_snapshot_for_a_moment(target: Target, source: Source) -> None:
    assert snapshot_for([], ClusterTime(0, 0)) is None
    early = archived(target, 10)
    first = take(target, source, now=NOW).snapshot
    second = take(target, source, now=NOW + SECOND).snapshot
    late = archived(target, 20)
    third = take(target, source, now=NOW + 2 * SECOND).snapshot
    have = [third, first, second]
    assert snapshot_for(have, ClusterTime(0, 0)) == first
    assert snapshot_for(have, early) == first
    assert snapshot_for(have, ClusterTime(early.t, 2)) == third
    assert snapshot_for(have, late) == third
    assert snapshot_for(have, ClusterTime(late.t + 100, 0)) == third


# ── Over SSH ──────────────────────────────────────────────────────────────────


@pytest.fixture
def remote(tmp_path: Path, storage: Path) -> Source:
    """What `ssh` leads to: whatever the caller asks for, the forced command is what runs."""
    (tmp_path / "rsyncd.conf").write_text(
        "use chroot = no\nuid = 0\ngid = 0\nmunge symlinks = no\n"
        f"[storage]\npath = {storage}\nread only = yes\nlist = no\n"
    )
    shell = tmp_path / "forced"
    shell.write_text(f"#!/bin/sh\nexec rsync --server --daemon --config={tmp_path}/rsyncd.conf .\n")
    shell.chmod(0o755)
    return Source("loyalty-backup@box1::storage", str(shell))


def test_a_forced_command_gives_the_files_and_takes_nothing(target: Target, storage: Path, remote: Source) -> None:
    digest = put(storage, b"content")
    snapshot = take(target, remote, now=NOW).snapshot
    assert blob(target.files / snapshot.id, digest).read_bytes() == b"content"
    assert snapshot.server == "loyalty-backup@box1"
    assert remote.shell is not None
    done = subprocess.run(
        ["rsync", "-r", f"--rsh={remote.shell}", f"{target.files}/", "x@box1::storage/"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "read only" in done.stderr


def test_what_looks_like_a_file_of_the_snapshot_before_comes_anew(
    target: Target, storage: Path, remote: Source
) -> None:
    """Of the same name and in part of the same contents: rsync must not build it from a file that it may not open."""
    content = os.urandom(200_000)
    touched, grown = put(storage, content), storage / "seals" / "2026-01.jsonl"
    grown.parent.mkdir(exist_ok=True)
    grown.write_bytes(content)
    take(target, remote, now=NOW)
    os.utime(blob(storage, touched))
    grown.write_bytes(content + b"more")
    snapshot = take(target, remote, now=NOW + SECOND).snapshot
    assert blob(target.files / snapshot.id, touched).read_bytes() == content
    assert (target.files / snapshot.id / "seals" / grown.name).read_bytes() == content + b"more"


def test_a_host_that_does_not_answer_is_an_error_with_its_reason(target: Target, tmp_path: Path) -> None:
    shell = tmp_path / "closed"
    shell.write_text("#!/bin/sh\necho 'ssh: connect to host box1 port 22: No route to host' >&2\nexit 255\n")
    shell.chmod(0o755)
    with pytest.raises(FilesError, match="No route to host"):
        take(target, Source("x@box1::storage", str(shell)), now=NOW)
    assert read_catalogue(target).files == ()


# ── Runs that die ─────────────────────────────────────────────────────────────


def test_a_killed_run_claims_nothing_and_the_next_goes_on_with_it(target: Target, storage: Path) -> None:
    """Killed at random moments, a dozen times; runs that are too quick for it get through."""
    contents = [os.urandom(20_000) for _ in range(60)]
    digests = [put(storage, content) for content in contents]
    dice = random.Random(3)
    program = (
        "import sys; from pathlib import Path; from datetime import datetime, timezone;"
        "from loyalty.backup.files import Source, take; from loyalty.backup.manifest import Target;"
        "print('ready', flush=True);"
        "take(Target(Path(sys.argv[1])), Source(sys.argv[2]), now=datetime.fromisoformat(sys.argv[3]))"
    )
    killed = attempt = 0
    while killed < 12:
        attempt += 1
        now = (NOW + attempt * SECOND).isoformat()
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(target.root), str(storage), now], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.25))  # the random moment
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        for snapshot in read_catalogue(target).files:
            assert list(mismatches(target, snapshot)) == []
            assert absent(target.files / snapshot.id, digests) == []
    last = take(target, Source(str(storage)), now=NOW + timedelta(hours=1)).snapshot
    assert absent(target.files / last.id, digests) == []
    names = {path.name.partition(".")[0] for path in target.files.iterdir()}
    assert names == {snapshot.id for snapshot in read_catalogue(target).files}  # no leftover of any of them


@pytest.fixture
def small_target(tmp_path: Path) -> Iterator[Target]:
    """A target with room for about 4 MB."""
    image, point = tmp_path / "image", tmp_path / "small"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    target = Target(point / "target")
    for folder in (target.root, target.chains, target.log, target.dumps, target.files):
        folder.mkdir()
    try:
        yield target
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_full_target_says_so_and_leaves_the_room_to_the_log(small_target: Target, storage: Path) -> None:
    put(storage, os.urandom(100_000))
    first = take(small_target, Source(str(storage)), now=NOW).snapshot
    for _ in range(10):
        put(storage, os.urandom(1_000_000))
    free = os.statvfs(small_target.root).f_bavail
    with pytest.raises(FilesError, match=r"The target is full.*prune"):
        take(small_target, Source(str(storage)), now=NOW + SECOND)
    assert os.statvfs(small_target.root).f_bavail >= free - 10
    assert read_catalogue(small_target).files == (first,)
    assert list(mismatches(small_target, first)) == []


# ── The second copy ───────────────────────────────────────────────────────────


def test_the_second_copy_shares_no_block_with_the_first(
    target: Target, storage: Path, source: Source, tmp_path: Path
) -> None:
    digest = put(storage, b"b" * 100_000)
    first = take(target, source, now=NOW).snapshot
    files.copy_into_repository(target, first, "secret")
    second = take(target, source, now=NOW + SECOND).snapshot
    files.copy_into_repository(target, second, "secret")
    files.copy_into_repository(target, second, "secret")  # again changes nothing
    rot(blob(target.files / first.id, digest))
    repository = files.files_repository(target, "secret")
    assert sorted(repository.archives()) == [first.id, second.id]
    repository.extract(second.id, tmp_path)
    assert hashlib.sha256(blob(tmp_path, digest).read_bytes()).hexdigest() == digest
    assert read_manifest(target.manifest(second)) == second
