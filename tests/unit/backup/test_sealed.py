"""Sealed files: what is written is read back, and every change is noticed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest

from loyalty.backup.sealed import Damaged, read_identity, read_sealed, sha256_of, write_sealed
from loyalty.backup.settings import SettingsError

KEY = pyrage.x25519.Identity.generate()


@pytest.mark.parametrize("chunks", [[], [b""], [b"a"], [b"first", b"second" * 50_000], [os.urandom(300_000), b"x"]])
def test_what_is_written_is_read_back(tmp_path: Path, chunks: list[bytes]) -> None:
    path = tmp_path / "x.slice"
    stored = write_sealed(path, chunks, KEY)
    assert b"".join(read_sealed(path, KEY)) == b"".join(chunks)
    assert (stored.bytes, stored.sha256) == (path.stat().st_size, sha256_of(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.slice"
    write_sealed(path, [os.urandom(200_000)], KEY)
    good = path.read_bytes()
    chance = random.Random(5)
    damaged = [good[:length] for length in (0, 1, 100, len(good) - 1, chance.randrange(len(good)))]
    for _ in range(200):
        changed = bytearray(good)
        changed[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(changed))
    damaged.append(good + b"x")
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(Damaged, match=r"x\.slice"):
            list(read_sealed(path, KEY))


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.slice"
    write_sealed(path, [b"secret"], KEY)
    with pytest.raises(Damaged):
        list(read_sealed(path, pyrage.x25519.Identity.generate()))
    assert b"secret" not in path.read_bytes()


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    path = tmp_path / "x.slice"
    write_sealed(path, [os.urandom(5_000_000)], KEY)
    reader = read_sealed(path, KEY)
    assert next(reader)
    reader.close()  # type: ignore[attr-defined]


def test_a_source_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield os.urandom(100_000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_sealed(tmp_path / "x.slice", chunks(), KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_read_and_other_text_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert str(read_identity(tmp_path / "key")) == str(KEY)
    (tmp_path / "key").write_text("no key")
    with pytest.raises(SettingsError, match="AGE-SECRET-KEY"):
        read_identity(tmp_path / "key")
