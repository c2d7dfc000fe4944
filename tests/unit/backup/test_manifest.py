"""Manifests: what is written is read back, what was changed is noticed, and what has none is a leftover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.backup.manifest import (
    Archive,
    ClusterTime,
    ManifestError,
    Seal,
    Target,
    leftovers,
    log_leftovers,
    read_catalogue,
    read_manifest,
    remove,
    write_manifest,
)

times = st.builds(ClusterTime, st.integers(0, 2**31), st.integers(0, 2**32 - 1))


def archive(kind: Any = "full", at: int = 1_796_000_000, **fields: Any) -> Archive:
    to = fields.pop("to", ClusterTime(at, 1))
    fields.setdefault("chain", to.stamp if kind == "full" else None)
    return Archive(
        **{
            "kind": kind,
            "id": f"{to.stamp}-{kind}",
            "from_": to,
            "to": to,
            "at": to.instant.isoformat(),
            "server": "db1:27017",
            "agent": "0.1.0",
            **fields,
        }
    )


def piece(start: int, end: int) -> Archive:
    from_, to = ClusterTime(start, 1), ClusterTime(end, 1)
    return archive("log", id=f"{from_.hex}-{to.hex}", from_=from_, to=to)


@pytest.fixture
def target(tmp_path: Path) -> Target:
    for folder in ("chains", "log", "dumps", "files"):
        (tmp_path / folder).mkdir()
    return Target(tmp_path)


def write(target: Target, *archives: Archive) -> None:
    for one in archives:
        target.manifest(one).parent.mkdir(parents=True, exist_ok=True)
        write_manifest(target, one)


def test_what_is_written_is_read_back(target: Target) -> None:
    one = archive(counts={"loyalty.ledger": 3}, seal=Seal(7, "ab" * 32), locked_s=0.25, last_sha256="cd" * 32)
    write(target, one)
    assert read_manifest(target.manifest(one)) == one
    assert [chain.archives for chain in read_catalogue(target).chains] == [(one,)]


def test_any_changed_character_that_matters_is_noticed(target: Target) -> None:
    one = archive(counts={"loyalty.ledger": 3}, seal=Seal(7, "ab" * 32))
    write(target, one)
    path = target.manifest(one)
    good = path.read_bytes()
    noticed = 0
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 7
        path.write_bytes(changed)
        try:
            assert read_manifest(path) == one  # a blank that became another says nothing
        except ManifestError:
            noticed += 1
    assert noticed > len(good) / 2


def test_a_truncated_manifest_is_named_and_the_others_are_read(target: Target) -> None:
    first, second = archive(), archive(at=1_796_100_000)
    write(target, first, second)
    path = target.manifest(first)
    path.write_bytes(path.read_bytes()[:100])
    catalogue = read_catalogue(target)
    assert [chain.id for chain in catalogue.chains] == [second.chain]
    assert len(catalogue.damaged) == 1
    assert str(path) in catalogue.damaged[0]


def test_a_manifest_of_a_later_version_is_refused(target: Target) -> None:
    one = archive(format=2)
    write(target, one)
    with pytest.raises(ManifestError, match="later version"):
        read_manifest(target.manifest(one))


def test_a_manifest_in_the_wrong_place_is_not_believed(target: Target) -> None:
    one = archive()
    write(target, one)
    target.manifest(one).rename(target.manifest(one).with_name("20200101T000000Z-full.json"))
    catalogue = read_catalogue(target)
    assert not catalogue.physical
    assert "describes another archive" in catalogue.damaged[0]


def test_the_log_is_one_span_while_each_slice_begins_where_the_one_before_ends(target: Target) -> None:
    write(target, piece(20, 30), piece(10, 20), piece(30, 40))
    (span,) = read_catalogue(target).spans
    assert (span.from_.t, span.to.t, len(span.slices)) == (10, 40, 3)


def test_a_missing_slice_divides_the_log(target: Target) -> None:
    write(target, piece(10, 20), piece(30, 40), piece(40, 50))
    assert [(span.from_.t, span.to.t) for span in read_catalogue(target).spans] == [(10, 20), (30, 50)]


def test_a_slice_that_was_archived_twice_divides_nothing(target: Target) -> None:
    write(target, piece(10, 20), piece(10, 30), piece(30, 40))
    (span,) = read_catalogue(target).spans
    assert span.to.t == 40


def test_what_has_no_manifest_is_a_leftover_and_nothing_else_is(target: Target) -> None:
    kept, of_log = archive(), piece(10, 20)
    incremental = archive("incremental", at=1_796_000_100, chain=kept.chain)
    write(target, kept, incremental, of_log)
    target.repository(kept.chain or "").mkdir()
    target.slice(of_log).write_bytes(b"x")
    dead = [
        target.chains / (kept.chain or "") / ".x.json.partial",
        target.chains / "20990101T000000Z",
        target.dumps / "20990101T000000Z",
    ]
    dead_log = [target.log / ".00-11.json.partial", target.log / "00-11.slice"]
    for path in (*dead, *dead_log):
        (path / "inside").mkdir(parents=True) if path.suffix == "" else path.write_bytes(b"x")
    assert leftovers(target) == sorted(dead)
    assert log_leftovers(target) == dead_log
    # An incremental is a whole archive: it outlives the manifest of its full.
    target.manifest(kept).unlink()
    assert leftovers(target) == sorted(dead)
    remove([*leftovers(target), *log_leftovers(target)])
    assert leftovers(target) == log_leftovers(target) == []
    assert target.slice(of_log).exists()
    assert target.repository(kept.chain or "").exists()


@given(times, times)
def test_the_order_of_hex_is_the_order_of_time(one: ClusterTime, other: ClusterTime) -> None:
    assert (one < other) == (one.hex < other.hex)
    assert ClusterTime.from_hex(one.hex) == one
    assert ClusterTime.of(one.timestamp) == one


@given(times)
def test_restoring_to_a_second_includes_the_second(time: ClusterTime) -> None:
    assert time <= ClusterTime.last_of(time.instant) < ClusterTime(time.t + 1, 0)
