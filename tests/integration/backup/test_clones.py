"""A member whose disk can clone files: the lock lasts no longer than it takes to name them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loyalty.backup import physical
from loyalty.backup.repository import Repository
from loyalty.backup.settings import read_secret
from tests.bounds import assert_within
from tests.integration.backup.conftest import Site
from tests.integration.backup.test_source import ask
from tests.servers import Mongod


@pytest.fixture
def member_on_xfs(tmp_path: Path) -> Iterator[Mongod]:
    image, disk = tmp_path / "disk.img", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    member = Mongod(disk / "mongod")
    try:
        member.start()
        yield member
    finally:
        member.stop()
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_clones_is_locked_for_a_moment_and_the_copy_is_whole(member_on_xfs: Mongod, tmp_path: Path) -> None:
    with member_on_xfs.connect() as client:
        for _ in range(20):
            client.shop.items.insert_many([{"noise": os.urandom(20_000)} for _ in range(500)])
    assert json.loads(ask(member_on_xfs, do="look").stdout)["clones"]
    site = Site(tmp_path / "host", [member_on_xfs])
    archive = physical.full(site.settings, site.target)
    assert archive.bytes > 200 << 20
    # Milliseconds on a quiet machine; copying would take longer than that on any.
    assert_within(2, archive.locked_s, "the lock")
    assert archive.chain is not None
    into = tmp_path / "into"
    into.mkdir()
    repository = Repository(site.target.repository(archive.chain), read_secret(site.settings.passphrase_file))
    repository.extract(archive.id, into)
    assert sum(path.stat().st_size for path in into.rglob("*") if path.is_file()) == archive.bytes
    assert list((member_on_xfs.data / "loyalty-backup.staging").iterdir()) == []
