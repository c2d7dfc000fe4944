"""The second copy: whole at every moment, never poorer because the first is, with real rsync and borg."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from loyalty.backup.comparing import Far
from loyalty.backup.copy import CopyError, begin, copy
from loyalty.backup.manifest import Catalogue, Target, read_catalogue
from loyalty.backup.repository import Repository
from loyalty.backup.retention import Policy
from loyalty.backup.verify import ROUND_DAYS, Verifier, note
from tests.integration.backup.kept import IDENTITY, NOW, PASSPHRASE, Kept, at, tar_of

POLICY = Policy(days=30, weeks=0, months=0)


@pytest.fixture
def kept(original: Path, tmp_path: Path) -> Kept:
    return Kept.copied(original, tmp_path / "target")


@pytest.fixture(params=["mount", "ssh"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Far:
    """A folder, or the same behind what a remote shell leads to: whatever is asked for is run, on the same machine."""
    folder = tmp_path / "far"
    folder.mkdir()
    if request.param == "mount":
        return Far(str(folder))
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nwhile [ "$1" != rsync ]; do shift; done\nexec "$@"\n')
    shell.chmod(0o755)
    return Far(f"keeper@far:{folder}", str(shell))


def there(tmp_path: Path) -> Target:
    return Target(tmp_path / "far")


def names(catalogue: Catalogue) -> list[str]:
    everything = (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files)
    return sorted(f"{one.kind}/{one.id}" for one in everything)


def problems(target: Target) -> list[str]:
    """Of all that is there: what is not whole."""
    catalogue = read_catalogue(target)
    results = Verifier(target, passphrase=PASSPHRASE, identity=IDENTITY).everything(catalogue)
    return [problem.key for problem in note(target, catalogue, results, now=NOW)]


def test_the_copy_has_everything_and_can_be_read(kept: Kept, far: Far, tmp_path: Path) -> None:
    (kept.target.root / "history.jsonl").write_text("{}\n")
    (kept.target.root / "site").mkdir()
    (kept.target.root / "site" / "20261128T000000Z.tar.vault").write_text("x")
    begin(kept.target, far)
    copied = copy(kept.target, far, POLICY, now=NOW)
    assert copied.archives == len(names(read_catalogue(kept.target)))
    assert names(read_catalogue(there(tmp_path))) == names(read_catalogue(kept.target))
    assert problems(there(tmp_path)) == []
    assert (tmp_path / "far" / "history.jsonl").exists()
    assert (tmp_path / "far" / "site" / "20261128T000000Z.tar.vault").exists()
    first, second = sorted(one.id for one in read_catalogue(kept.target).files)
    files = there(tmp_path).files
    assert (files / first / "files" / "file0").samefile(files / second / "files" / "file0")
    assert copy(kept.target, far, POLICY, now=NOW)[:3] == (0, 0, 0)


def test_a_folder_that_is_no_copy_is_refused(kept: Kept, far: Far, tmp_path: Path) -> None:
    with pytest.raises(CopyError, match=r"not mounted.*--init"):
        copy(kept.target, far, POLICY, now=NOW)
    (tmp_path / "far" / "loyalty-backup.json").write_text('{"format":1,"site":"other","created_at":"x"}')
    with pytest.raises(CopyError, match="of other, not of acme"):
        copy(kept.target, far, POLICY, now=NOW)
    shutil.rmtree(tmp_path / "far")
    with pytest.raises(CopyError, match="cannot be read"):
        copy(kept.target, far, POLICY, now=NOW)


def test_what_is_lost_or_rots_here_stays_whole_there(kept: Kept, far: Far, tmp_path: Path) -> None:
    begin(kept.target, far)
    copy(kept.target, far, POLICY, now=NOW)
    before = names(read_catalogue(there(tmp_path)))
    # Somebody removes a chain and half of the log, and the disk spoils what is left.
    shutil.rmtree(kept.target.chains / at(0).stamp)
    for piece in read_catalogue(kept.target).slices[:3]:
        kept.target.manifest(piece).unlink()
        kept.target.slice(piece).unlink()
    for segment in (kept.target.repository(at(100).stamp) / "data" / "0").iterdir():
        os.truncate(segment, segment.stat().st_size // 2)
    kept.slice(300, 350)
    with pytest.raises(
        CopyError, match=rf"not what is here: chain/{at(100).stamp} \(data/0/.*All that is new was brought"
    ):
        copy(kept.target, far, POLICY, now=NOW)
    assert len(names(read_catalogue(there(tmp_path)))) == len(before) + 1
    assert set(before) < set(names(read_catalogue(there(tmp_path))))
    assert problems(there(tmp_path)) == []


def test_what_was_found_damaged_does_not_go(kept: Kept, far: Far, tmp_path: Path) -> None:
    piece = kept.slice(300, 350)
    os.truncate(kept.target.slice(piece), 100)
    assert problems(kept.target) == [f"log/{piece.id}"]
    begin(kept.target, far)
    copy(kept.target, far, POLICY, now=NOW)
    assert f"log/{piece.id}" not in names(read_catalogue(there(tmp_path)))


def flip(path: Path) -> None:
    """As a disk does it: size and times stay."""
    times = path.stat()
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("kind", ["log", "dump", "files", "chain"])
def test_what_rots_there_is_told_until_it_was_brought_again(kept: Kept, far: Far, tmp_path: Path, kind: str) -> None:
    begin(kept.target, far)
    copy(kept.target, far, POLICY, now=NOW)
    catalogue = read_catalogue(there(tmp_path))
    folder = there(tmp_path)
    piece, dump, snapshot, chain = (catalogue.slices[0], catalogue.dumps[-1], catalogue.files[-1], catalogue.chains[-1])
    rotten, remove = {
        "log": (folder.slice(piece), [folder.manifest(piece), folder.slice(piece)]),
        "dump": (folder.dumps / dump.id / "loyalty.members.bson.age", [folder.dumps / dump.id]),
        "files": (
            folder.files / snapshot.id / "files" / "file1",
            [folder.files / snapshot.id, folder.manifest(snapshot)],
        ),
        "chain": (
            max((folder.repository(chain.id) / "data/0").iterdir(), key=os.path.getsize),
            [folder.chains / chain.id],
        ),
    }[kind]
    flip(rotten)
    for days in (1, 2):
        with pytest.raises(CopyError, match=rf"not what is here: {kind}/.*{rotten.name}.*loyalty-backup verify"):
            copy(kept.target, far, POLICY, now=NOW + timedelta(days=days))
    for path in remove:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert copy(kept.target, far, POLICY, now=NOW + timedelta(days=3)).archives > 0
    copy(kept.target, far, POLICY, now=NOW + timedelta(days=4))
    assert problems(there(tmp_path)) == []


def test_all_that_is_there_is_compared_in_time(kept: Kept, far: Far, tmp_path: Path) -> None:
    begin(kept.target, far)
    for days in range(3):
        copy(kept.target, far, POLICY, now=NOW + timedelta(days=days))
    piece = there(tmp_path).slice(read_catalogue(kept.target).slices[0])
    flip(piece)

    def is_found(days: int) -> bool:
        try:
            copy(kept.target, far, POLICY, now=NOW + timedelta(days=days))
        except CopyError as error:
            return piece.name in str(error)
        return False

    assert any(is_found(days) for days in range(3, 3 + ROUND_DAYS))


def test_what_was_compared_by_a_clock_that_was_ahead_has_its_turn_again(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    far = Far(str(tmp_path / "far"))
    for second in (400, 500):
        kept.chain(second)
    begin(kept.target, far)
    for _ in range(2):  # brought, and then compared: the newest chain and the first
        copy(kept.target, far, POLICY, now=NOW + timedelta(days=3650))
    first = read_catalogue(kept.target).chains[0]
    flip(max((there(tmp_path).repository(first.id) / "data/0").iterdir(), key=os.path.getsize))
    copy(kept.target, far, POLICY, now=NOW)
    copy(kept.target, far, POLICY, now=NOW + timedelta(days=1))
    with pytest.raises(CopyError, match=rf"not what is here: chain/{first.id}"):
        copy(kept.target, far, POLICY, now=NOW + timedelta(days=2))


def test_a_run_that_adds_to_a_chain_here_makes_nothing_there_differ(kept: Kept, far: Far, tmp_path: Path) -> None:
    begin(kept.target, far)
    copy(kept.target, far, POLICY, now=NOW)
    (chain,) = read_catalogue(kept.target).chains[-1:]
    Repository(kept.target.repository(chain.id), PASSPHRASE).import_tar("unfinished", [tar_of(os.urandom(50_000))])
    assert copy(kept.target, far, POLICY, now=NOW + timedelta(days=1)).compared > 0


def test_the_far_side_lets_go_by_what_it_holds_itself(kept: Kept, far: Far, tmp_path: Path) -> None:
    begin(kept.target, far)
    copy(kept.target, far, POLICY, now=NOW)
    assert copy(kept.target, far, POLICY, now=NOW + timedelta(days=4000)).gone == 0  # a clock is no reason
    for day in (40, 80):
        kept.chain(day * 86_400)
    kept.slice(300, 80 * 86_400)
    copied = copy(kept.target, far, Policy(days=1, weeks=0, months=0), now=NOW + timedelta(days=80))
    left = read_catalogue(there(tmp_path))
    assert [chain.id for chain in left.chains] == [at(40 * 86_400).stamp, at(80 * 86_400).stamp]
    assert copied.gone == 2 + 6 + 1  # chains, slices, and a dump that is not the newest
    assert len(read_catalogue(kept.target).chains) == 4  # here nothing has gone
    folders = {path.name for path in there(tmp_path).chains.iterdir()}
    assert folders == {chain.id for chain in left.chains}
    assert len(list(there(tmp_path).log.iterdir())) == len(list(there(tmp_path).dumps.iterdir())) + 1 == 2
    assert problems(there(tmp_path)) == []


def test_a_killed_copy_never_claims_more_than_is_there(kept: Kept, tmp_path: Path) -> None:
    folder = tmp_path / "far"
    folder.mkdir()
    begin(kept.target, Far(str(folder)))
    program = (
        "import sys; from pathlib import Path; from datetime import datetime;"
        "from loyalty.backup.comparing import Far; from loyalty.backup.copy import copy;"
        "from loyalty.backup.manifest import Target;"
        "from loyalty.backup.retention import Policy; print('ready', flush=True);"
        "copy(Target(Path(sys.argv[1])), Far(sys.argv[2]), Policy(), now=datetime.fromisoformat(sys.argv[3]))"
    )
    dice = random.Random(7)
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(kept.target.root), str(folder), NOW.isoformat()],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.6))  # the random moment
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        catalogue = read_catalogue(there(tmp_path))
        verifier = Verifier(there(tmp_path), passphrase=PASSPHRASE, identity=IDENTITY)
        assert catalogue.damaged == ()
        cheap = (*catalogue.slices, *catalogue.dumps, *catalogue.files)
        assert [one.problem for one in map(verifier.archive, cheap) if one.problem] == []
        for archive in catalogue.physical:
            assert (there(tmp_path).repository(archive.chain or "") / "data").is_dir()
    assert killed >= 6
    copy(kept.target, Far(str(folder)), POLICY, now=datetime(2026, 11, 28, tzinfo=timezone.utc))
    assert problems(there(tmp_path)) == []
