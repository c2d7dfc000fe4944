"""What the reading of the chains keeps for the seals is found again, and nothing else is."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.leaves import Leaves, kept_leaves


def hash_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def keep(leaves: Leaves, numbers: list[int]) -> None:
    with leaves.keeper() as kept:
        for number in numbers:
            kept(number, hash_of(number))


@given(
    st.lists(st.integers(1, 60), unique=True).map(sorted),
    st.lists(st.integers(61, 5000), unique=True, max_size=3000).map(sorted),
    st.lists(st.integers(0, 5001), max_size=100),
)
def test_a_hash_is_found_where_it_was_kept(first: list[int], second: list[int], asked: list[int]) -> None:
    with kept_leaves() as leaves:
        keep(leaves, first)
        keep(leaves, second)
        there = {*first, *second}
        asked += [*first, *second[:50]]
        expected = [hash_of(number) if number in there else None for number in asked]
        assert leaves.read().hashes_of(asked) == expected


def test_every_process_has_files_of_its_own(tmp_path: Path) -> None:
    keep(Leaves(tmp_path), [1, 5, 9])
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"other{path.suffix}")
    keep(Leaves(tmp_path), [2, 6])
    assert Leaves(tmp_path).read().hashes_of([1, 2, 3, 6, 9]) == [hash_of(1), hash_of(2), None, hash_of(6), hash_of(9)]


def test_a_damaged_hash_is_not_kept(tmp_path: Path) -> None:
    leaves = Leaves(tmp_path)
    with leaves.keeper() as kept:
        for number, damaged in enumerate([b"short", "x" * 32, None, bytearray(32)], start=1):
            kept(number, damaged)
        kept(5, hash_of(5))
    assert leaves.read().hashes_of(range(1, 6)) == [None, None, None, None, hash_of(5)]


def test_an_end_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    leaves = Leaves(tmp_path)
    keep(leaves, [1, 2, 3])
    (hashes,) = tmp_path.glob("*.hashes")
    hashes.write_bytes(hashes.read_bytes()[:-1])
    assert leaves.read().hashes_of([1, 2, 3]) == [hash_of(1), hash_of(2), None]
    hashes.unlink()
    assert leaves.read().hashes_of([1, 2, 3]) == [None, None, None]


def test_no_hash_is_beside_another_number_where_the_disk_was_full(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # of a batch too many, a part is written
    try:
        keep(Leaves(tmp_path), list(range(4500)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    keep(Leaves(tmp_path), list(range(4500, 9000)))
    found = Leaves(tmp_path).read().hashes_of(range(9000))
    assert None in found
    assert found[4500:] == [hash_of(number) for number in range(4500, 9000)]
    assert all(digest in (None, hash_of(number)) for number, digest in enumerate(found))


def test_nothing_is_left_behind() -> None:
    with kept_leaves() as leaves:
        keep(leaves, [1])
        assert leaves.folder.stat().st_mode & 0o077 == 0
    assert not leaves.folder.exists()
