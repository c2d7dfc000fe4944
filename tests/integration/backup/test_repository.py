"""The repository of a chain, with a real borg."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loyalty.backup.repository import Repository, RepositoryError

PASSPHRASE = "correct horse battery staple"


def tar_of(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "chain").mkdir()
    repository = Repository(tmp_path / "chain" / "repository", PASSPHRASE)
    repository.create()
    return repository


def read(repository: Repository, name: str, folder: Path) -> bytes:
    folder.mkdir()
    repository.extract(name, folder)
    return (folder / "data").read_bytes()


def test_an_archive_is_restored_and_the_next_stores_only_what_changed(repository: Repository, tmp_path: Path) -> None:
    first = os.urandom(8 << 20)
    second = first[: 3 << 20] + os.urandom(1 << 20) + first[4 << 20 :]
    full = repository.import_tar("one", [tar_of(data=first)])
    assert full.stored_bytes > len(first)
    incremental = repository.import_tar("two", [tar_of(data=second)])
    assert 1 << 20 < incremental.stored_bytes < (1 << 20) * 1.1
    assert read(repository, "one", tmp_path / "one") == first
    assert read(repository, "two", tmp_path / "two") == second
    assert repository.archives() == {"one": full.id, "two": incremental.id}


def test_a_source_that_fails_or_ends_early_leaves_no_archive(repository: Repository) -> None:
    def chunks() -> Iterator[bytes]:
        yield tar_of(data=os.urandom(1 << 20))[: 1 << 19]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        repository.import_tar("one", chunks())
    with pytest.raises(RepositoryError, match="unexpected end of data"):
        repository.import_tar("one", [tar_of(data=os.urandom(1 << 20))[: 1 << 19]])
    assert repository.archives() == {}


def test_the_lock_of_a_run_that_was_killed_is_broken_by_the_next(repository: Repository, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from loyalty.backup.repository import Repository\n"
        "def chunks():\n"
        "    yield b'x' * 5000\n"
        "    while not (Path(sys.argv[1]) / 'lock.roster').exists(): pass\n"
        "    os.kill(os.getpid(), 9)\n"
        "Repository(Path(sys.argv[1]), sys.argv[2]).import_tar('one', chunks())\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(repository.path), PASSPHRASE], check=False)
    assert killed.returncode == -9
    assert (repository.path / "lock.roster").exists()
    repository.import_tar("two", [tar_of(data=b"x")])
    assert list(repository.archives()) == ["two"]


def test_a_deleted_archive_gives_its_room_back(repository: Repository) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in repository.path.rglob("*") if path.is_file())

    repository.import_tar("one", [tar_of(data=os.urandom(4 << 20))])
    before = size()
    repository.import_tar("two", [tar_of(data=os.urandom(4 << 20))])
    repository.delete(["two"])
    assert list(repository.archives()) == ["one"]
    assert size() < before + (1 << 20)


def test_a_flipped_bit_is_noticed_wherever_it_is(repository: Repository, tmp_path: Path) -> None:
    content = os.urandom(4 << 20)
    repository.import_tar("one", [tar_of(data=content)])
    repository.check()
    (segment,) = [path for path in repository.path.glob("data/0/*") if path.stat().st_size > 1 << 20]
    good = segment.read_bytes()
    chance = random.Random(11)
    for number in range(6):
        changed = bytearray(good)
        changed[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        segment.write_bytes(changed)
        with pytest.raises(RepositoryError):
            repository.check()
        # A bit that no file needs (a frame of borg's own) may go unnoticed by a restore, but nothing wrong comes of it.
        try:
            assert read(repository, "one", tmp_path / str(number)) == content
        except RepositoryError:
            continue
    segment.write_bytes(good[:-1000])
    with pytest.raises(RepositoryError):
        repository.check()


def test_another_passphrase_opens_nothing(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="passphrase"):
        Repository(repository.path, "another").archives()


def test_the_passphrase_is_neither_among_the_arguments_nor_in_the_environment(repository: Repository) -> None:
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        yield tar_of(data=b"x" * 100_000)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                process = Path("/proc") / pid
                if int(process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                    seen.append(process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes())
            except OSError:
                continue

    repository.import_tar("one", chunks())
    assert any(b"borg" in one for one in seen)
    assert not any(PASSPHRASE.encode() in one for one in seen)
