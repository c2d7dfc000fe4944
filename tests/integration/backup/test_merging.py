"""Slices of a finished hour become one that says the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import bson
import pyrage  # type: ignore[import-untyped]
import pytest
from bson.timestamp import Timestamp

from loyalty.backup.manifest import Archive, ClusterTime, Target, log_leftovers, read_catalogue, write_manifest
from loyalty.backup.merging import merge_hours
from loyalty.backup.sealed import Damaged, read_sealed, write_sealed
from loyalty.backup.settings import Database, Member, Settings
from loyalty.backup.target import initialise

HOUR = 1_796_000_400  # the beginning of one


class Log:
    """A target that has a log of made-up entries, one each minute."""

    def __init__(self, folder: Path) -> None:
        self.identity = pyrage.x25519.Identity.generate()
        (folder / "key").write_text(str(self.identity))
        (folder / "target").mkdir()
        self.settings = Settings(
            site="acme",
            target=folder / "target",
            identity_file=folder / "key",
            database=Database(replica_set="loyalty"),
            members=(Member(address="db1:27017", command=("/x",)),),
        )
        self.target: Target = initialise(self.settings)

    def add(self, first: int, last: int) -> Archive:
        """The slice from one minute to another."""
        entries = [entry(minute) for minute in range(first, last + 1)]
        from_, to = moment(first), moment(last)
        archive = Archive(
            kind="log",
            id=f"{from_.hex}-{to.hex}",
            from_=from_,
            to=to,
            at=to.instant.isoformat(),
            server="db1:27017",
            entries=len(entries),
            last_sha256=sha256(entries[-1]),
            bytes=sum(map(len, entries)),
            agent="0",
        )
        write_sealed(self.target.slice(archive), entries, self.identity)
        write_manifest(self.target, archive)
        return archive

    def minutes(self, pieces: Sequence[Archive]) -> list[list[int]]:
        """Which entries each slice holds."""
        return [
            [
                document["minute"]
                for document in bson.decode_all(b"".join(read_sealed(self.target.slice(piece), self.identity)))
            ]
            for piece in pieces
        ]


def moment(minute: int) -> ClusterTime:
    return ClusterTime(HOUR + 60 * minute, 1)


def entry(minute: int) -> bytes:
    return bson.encode({"ts": Timestamp(HOUR + 60 * minute, 1), "minute": minute})


def sha256(entry: bytes) -> str:
    import hashlib

    return hashlib.sha256(entry).hexdigest()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_finished_hour_becomes_one_slice_and_the_newest_stays_as_it_is(log: Log) -> None:
    for first, last in ((0, 10), (10, 11), (11, 59), (59, 61), (61, 62)):
        log.add(first, last)
    before = read_catalogue(log.target).spans
    (merged,) = merge_hours(log.settings, log.target)
    catalogue = read_catalogue(log.target)
    assert log.minutes(catalogue.slices) == [list(range(62)), [61, 62]]
    assert (merged.from_, merged.to, merged.entries) == (moment(0), moment(61), 62)
    assert merged.last_sha256 == sha256(entry(61))
    assert [(span.from_, span.to) for span in catalogue.spans] == [(span.from_, span.to) for span in before]
    assert log_leftovers(log.target) == []
    assert len(list(log.target.log.iterdir())) == 4
    assert merge_hours(log.settings, log.target) == []


def test_what_does_not_join_or_would_be_too_large_stays_apart(log: Log) -> None:
    for first, last in ((0, 5), (5, 9), (12, 15), (15, 18), (100, 101)):
        log.add(first, last)
    size = len(entry(0))
    assert merge_hours(log.settings, log.target, most_bytes=5 * size) == []
    merge_hours(log.settings, log.target, most_bytes=20 * size)
    assert log.minutes(read_catalogue(log.target).slices) == [list(range(10)), list(range(12, 19)), [100, 101]]


def test_a_damaged_slice_stays_and_so_do_its_neighbours(log: Log) -> None:
    first = log.add(0, 10)
    log.add(10, 20)
    log.add(100, 101)
    path = log.target.slice(first)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged):
        merge_hours(log.settings, log.target)
    assert len(read_catalogue(log.target).slices) == 3
    assert log_leftovers(log.target) == []


def test_a_crash_before_the_old_ones_are_gone_spoils_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, last in ((0, 10), (10, 20), (100, 101)):
        log.add(first, last)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("loyalty.backup.merging.remove", lambda paths: dies() if not isinstance(paths, list) else None)
        with pytest.raises(KeyboardInterrupt):
            merge_hours(log.settings, log.target)
    first_span = read_catalogue(log.target).spans[0]
    assert log.minutes(first_span.slices) == [list(range(21))]
    assert os.listdir(log.target.log)
