"""Whatever is changed in what is kept is found by reading it, with real borg and age."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import bson
import msgspec
import pyrage  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.backup.manifest import Target, read_catalogue, write_manifest
from loyalty.backup.records import alarms
from loyalty.backup.sealed import write_sealed
from loyalty.backup.verify import (
    ROUND_DAYS,
    State,
    Verifier,
    damaged,
    newest_and_longest_unread,
    note,
    read_state,
)
from tests.integration.backup.kept import IDENTITY, NOW, Kept, archive, at, entry


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Without repositories."""
    kept = Kept(tmp_path / "target")
    kept.fill(tmp_path / "storage")
    return kept


@pytest.fixture
def whole(original: Path, tmp_path: Path) -> Kept:
    """With everything."""
    return Kept.copied(original, tmp_path / "target")


def flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = dice.randrange(len(content))
    content[place] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(path: Path, dice: random.Random) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size))


def remove(path: Path, dice: random.Random) -> None:
    path.unlink()


def test_what_is_whole_raises_no_alarm(whole: Kept) -> None:
    assert whole.read_everything() == []
    assert alarms(whole.target) == {}
    state = read_state(whole.target)
    assert state.damaged == {}
    assert state.log_to == at(300).hex
    assert f"chain/{at(100).stamp}" in state.read_at
    assert state.read_at["repository/files"] == "2026-11-28T04:00:00Z"


def harmed(target: Target, pattern: str, harm: Callable[[Path, random.Random], None]) -> Path:
    dice = random.Random(f"{harm.__name__} {pattern}")
    path = dice.choice(sorted(path for path in target.root.glob(pattern) if path.stat().st_size > 17))
    harm(path, dice)
    return path


@pytest.mark.parametrize("harm", [flip, cut, remove])
@pytest.mark.parametrize("pattern", ["log/*.slice", "dumps/*/*.age", "files/*Z/**/file0", "files/*.sha256"])
def test_harm_is_found(kept: Kept, harm: Callable[[Path, random.Random], None], pattern: str) -> None:
    harmed(kept.target, pattern, harm)
    assert kept.read_everything() != []
    assert "verify" in alarms(kept.target)


@pytest.mark.parametrize("harm", [flip, cut, remove])
@pytest.mark.parametrize("pattern", ["chains/*/repository/data/0/*", "files/repository/data/0/*"])
def test_harm_in_a_repository_is_found(whole: Kept, harm: Callable[[Path, random.Random], None], pattern: str) -> None:
    harmed(whole.target, pattern, harm)
    assert whole.read_everything() != []


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("pattern", ["log/*.json", "dumps/*/manifest.json", "files/*.json"])
def test_harm_in_a_manifest_is_found(kept: Kept, harm: Callable[[Path, random.Random], None], pattern: str) -> None:
    """One that is gone is an archive fewer: a gap if it was the log's."""
    path = harmed(kept.target, pattern, harm)
    assert kept.read_everything() == ["manifest/0"]
    assert str(path) in alarms(kept.target)["verify"]


def test_damage_is_told_from_what_is_still_whole(whole: Kept) -> None:
    flip(whole.target.log / f"{at(100).hex}-{at(150).hex}.slice", random.Random(1))
    segments = (whole.target.repository(at(0).stamp) / "data" / "0").iterdir()
    os.truncate(max(segments, key=lambda segment: segment.stat().st_size), 20_000)
    whole.read_everything()
    found = damaged(read_state(whole.target))
    assert ("log", f"{at(100).hex}-{at(150).hex}") in found
    assert ("full", f"{at(0).stamp}-full") in found
    assert {kind for kind, _ in found} == {"log", "full", "repository"}
    assert not any(at(100).stamp in id for _, id in found)


def test_a_slice_that_does_not_join_the_one_before_is_found(kept: Kept) -> None:
    """Each is whole for itself; the history between them was another one."""
    path = kept.target.log / f"{at(50).hex}-{at(100).hex}"
    path.with_suffix(".json").unlink()
    path.with_suffix(".slice").unlink()
    entries = [entry(50), *(bson.encode({"ts": at(second).timestamp, "o": {}}) for second in (60, 100))]
    piece = archive(
        "log", path.name, at(100), from_=at(50), entries=3, last_sha256=hashlib.sha256(entries[-1]).hexdigest()
    )
    stored = write_sealed(kept.target.slice(piece), entries, IDENTITY)
    write_manifest(kept.target, msgspec.structs.replace(piece, sha256=stored.sha256))
    assert kept.read_everything() == [f"log/{at(100).hex}-{at(150).hex}"]


def test_a_gap_after_the_newest_full_stands_until_there_is_a_newer_one(kept: Kept) -> None:
    kept.chain(100)
    for begin in (0, 200):  # the first gap is before the newest full: it costs nothing to come
        path = kept.target.log / f"{at(begin).hex}-{at(begin + 50).hex}"
        path.with_suffix(".json").unlink()
    assert kept.read_everything() == [f"gap/{at(200).hex}"]
    assert "the log has a gap from" in alarms(kept.target)["verify"]
    kept.chain(300)
    assert kept.read_everything() == []
    assert alarms(kept.target) == {}


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_harm_in_a_copy_of_the_sites_folder_is_found(kept: Kept, harm: Callable[[Path, random.Random], None]) -> None:
    first, last = kept.site_copy(0), kept.site_copy(100)
    torn = kept.site_copy(200)
    torn.with_name(f"{at(200).stamp}.json").unlink()  # what says that it is complete never came
    assert kept.read_everything() == []
    assert read_state(kept.target).read_at[f"site/{at(100).stamp}"] == "2026-11-28T04:00:00Z"
    catalogue = read_catalogue(kept.target)
    daily = [one.key for one in kept.verifier().daily(catalogue, State(), now=NOW) if one.kind == "site"]
    assert daily == [f"site/{at(100).stamp}", f"site/{at(0).stamp}"]
    harm(last, random.Random(3))
    assert kept.read_everything() == [f"site/{at(100).stamp}"]
    assert str(last) in alarms(kept.target)["verify"]
    assert first.exists()


def test_a_manifest_of_the_sites_folder_that_cannot_be_read_is_named(kept: Kept) -> None:
    path = kept.site_copy(0).with_name(f"{at(0).stamp}.json")
    path.write_text("{")
    assert kept.read_everything() == ["manifest/0"]
    assert str(path) in alarms(kept.target)["verify"]


def test_another_key_opens_nothing(whole: Kept) -> None:
    catalogue = read_catalogue(whole.target)
    other = Verifier(whole.target, passphrase="wrong", identity=pyrage.x25519.Identity.generate())
    assert all(
        other.archive(one, catalogue.slices).problem
        for one in (*catalogue.physical, *catalogue.slices, *catalogue.dumps)
    )


def test_each_archive_is_read_when_it_arrives(whole: Kept) -> None:
    catalogue = read_catalogue(whole.target)
    everything = (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files)
    results = [whole.verifier().archive(one, catalogue.slices) for one in everything]
    assert [(result.kind, result.id, result.problem) for result in results] == [
        (one.kind, one.id, None) for one in everything
    ]


def test_in_the_end_the_days_have_read_everything(kept: Kept) -> None:
    catalogue = read_catalogue(kept.target)
    first = list(kept.verifier().daily(catalogue, State(), now=NOW))
    assert {result.key for result in first} >= {f"log/{piece.id}" for piece in catalogue.slices}
    note(kept.target, catalogue, first, now=NOW)
    seen: list[str] = []
    for day in range(1, ROUND_DAYS + 1):
        now = NOW + timedelta(days=day)
        results = list(kept.verifier().daily(catalogue, read_state(kept.target), now=now))
        note(kept.target, catalogue, results, now=now)
        seen += [result.key for result in results]
    for piece in catalogue.slices:
        assert seen.count(f"log/{piece.id}") == 1  # what has been read once is read again once a round
    assert {key for key in seen if not key.startswith("log/")} == {
        f"{one.kind}/{one.id}" for one in (*catalogue.dumps, *catalogue.files)
    }


def test_what_was_read_by_a_clock_that_was_ahead_has_its_turn_again(kept: Kept) -> None:
    catalogue = read_catalogue(kept.target)
    results = list(kept.verifier().daily(catalogue, State(), now=NOW))
    note(kept.target, catalogue, results, now=NOW + timedelta(days=365))
    note(kept.target, catalogue, [], now=NOW)
    assert {at[:10] for at in read_state(kept.target).read_at.values()} == {f"{NOW:%Y-%m-%d}"}


@given(st.integers(1, 9), st.integers(0, 40))
def test_the_newest_is_read_each_day_and_the_others_in_turn(count: int, days: int) -> None:
    things = [str(number) for number in range(count)]
    state = State()
    read: list[str] = []
    for day in range(days):
        chosen = newest_and_longest_unread(things, things, state)
        assert chosen[0] == things[-1]
        state.read_at |= dict.fromkeys(chosen, f"{day:03}")
        read += chosen[1:]
    turns = [read.count(thing) for thing in things[:-1]]
    assert not turns or max(turns) - min(turns) <= 1


def test_what_is_not_kept_any_more_is_forgotten(kept: Kept) -> None:
    flip(kept.target.log / f"{at(0).hex}-{at(50).hex}.slice", random.Random(2))
    assert kept.read_everything() != []
    (kept.target.log / f"{at(0).hex}-{at(50).hex}.json").unlink()
    note(kept.target, read_catalogue(kept.target), [], now=NOW)
    assert read_state(kept.target).damaged == {}
    assert alarms(kept.target) == {}
