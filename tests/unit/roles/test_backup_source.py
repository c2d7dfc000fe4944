"""How the program on a member copies a file over an older copy of it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.by_path import load

source = load("roles/backup/files/loyalty-backup-source")
PAGE = 4096
"""Of a file system: no hole is smaller."""
BLOCK = 2 * PAGE


class Run(NamedTuple):
    """So many equal bytes; None are zeros that were never written."""

    byte: bytes | None
    length: int


RUNS = st.lists(
    st.builds(
        Run,
        st.sampled_from([None, b"\0", b"a", b"b"]),
        st.integers(1, 3 * BLOCK) | st.integers(1, 6).map(lambda pages: pages * PAGE),
    ),
    max_size=6,
)
"""Contents with holes, and gaps of zeros that begin and end anywhere in a block."""


def write(path: Path, runs: list[Run], *, reserved: bool) -> bytes:
    """Make the file, with room for all of it beforehand, as mongod reserves its journal, or not. What it holds."""
    with path.open("wb") as file:
        length = sum(run.length for run in runs)
        if reserved and length:
            os.posix_fallocate(file.fileno(), 0, length)
        for run in runs:
            if run.byte is None:
                file.seek(run.length, os.SEEK_CUR)
            else:
                file.write(run.byte * run.length)
        file.truncate(length)
    return b"".join((run.byte or b"\0") * run.length for run in runs)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", BLOCK)


@given(now=RUNS, before=st.none() | RUNS, reserved=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_is_what_the_file_is_whatever_it_was_before(
    tmp_path: Path, now: list[Run], before: list[Run] | None, reserved: bool
) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    expected = write(file, now, reserved=reserved)
    copy.unlink(missing_ok=True)
    if before is not None:
        write(copy, before, reserved=False)
    source._copy_blocks(file, copy, SimpleNamespace(is_holding=lambda: True), source.Pace(0))
    assert copy.read_bytes() == expected


def test_room_that_is_reserved_and_empty_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock makes mongod begin a new file of the journal, 100 MB of which nothing is used."""
    file, copy = tmp_path / "file", tmp_path / "copy"
    runs = [Run(b"a", PAGE), Run(None, 1000 * BLOCK), Run(b"b", PAGE), Run(None, 1000 * BLOCK)]
    expected = write(file, runs, reserved=True)
    reads: list[int] = []

    def read(file: int, length: int, offset: int) -> bytes:
        reads.append(offset)
        return os.pread(file, length, offset)

    monkeypatch.setattr(source, "os", SimpleNamespace(**{**vars(os), "pread": read}))
    source._copy_blocks(file, copy, SimpleNamespace(is_holding=lambda: True), source.Pace(0))
    assert copy.read_bytes() == expected
    assert len(reads) < 10


def test_what_others_put_beside_the_database_is_not_copied(tmp_path: Path) -> None:
    for name in ("WiredTiger", "journal/WiredTigerLog.1", ".before-r1/WiredTiger", ".arrived/WiredTiger"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path.relative_to(tmp_path)) for path in source.files_of(tmp_path)} == {
        "WiredTiger",
        "journal",
        "journal/WiredTigerLog.1",
    }
