"""How the program on a member copies a file over an older copy of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.by_path import load

source = load("roles/backup/files/loyalty-backup-source")
BLOCK = 8

RUNS = st.lists(
    st.tuples(st.sampled_from([b"\0", b"a", b"b"]), st.integers(1, 3 * BLOCK)).map(lambda run: run[0] * run[1]),
    max_size=6,
).map(b"".join)
"""Contents with gaps of zeros that begin and end anywhere in a block."""


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", BLOCK)


@given(now=RUNS, before=st.none() | RUNS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_is_what_the_file_is_whatever_it_was_before(tmp_path: Path, now: bytes, before: bytes | None) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(now)
    copy.unlink(missing_ok=True)
    if before is not None:
        copy.write_bytes(before)
    source._copy_blocks(file, copy, SimpleNamespace(is_holding=lambda: True), source.Pace(0))
    assert copy.read_bytes() == now


def test_what_others_put_beside_the_database_is_not_copied(tmp_path: Path) -> None:
    for name in ("WiredTiger", "journal/WiredTigerLog.1", ".before-r1/WiredTiger", ".arrived/WiredTiger"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path.relative_to(tmp_path)) for path in source.files_of(tmp_path)} == {
        "WiredTiger",
        "journal",
        "journal/WiredTigerLog.1",
    }
