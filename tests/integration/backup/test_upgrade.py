"""A server gets a later patch of its release: the log goes on, a new chain begins, and both patches restore both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loyalty.backup import physical
from loyalty.backup.manifest import Archive, read_catalogue
from loyalty.backup.oplog import archive_log
from loyalty.backup.restore import restore
from loyalty.backup.scratch import Scratch
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.conftest import Site
from tests.later_mongod import VERSION, later_mongod_path
from tests.servers import Mongod


class Upgradable(Mongod):
    """A replica set of one whose program can be exchanged while it is stopped."""

    program: Path

    def command(self) -> list[str]:
        return [str(self.program), *super().command()[1:]]


@dataclass(frozen=True)
class Upgraded:
    """A site whose server wrote the numbers 0 and 1 before it was upgraded, and 2 and 3 after that."""

    site: Site
    before: Archive
    """The full between 0 and 1."""
    after: Archive
    """What became of the next incremental, between 2 and 3."""


@pytest.fixture(scope="module")
def upgraded(servers_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    server = Upgradable(servers_directory / "backup-upgrade")
    server.program = mongod_path()
    server.start()
    site = Site(tmp_path_factory.mktemp("upgrade") / "host", [server])

    def write(number: int) -> None:
        with server.connect() as client:
            client.shop.items.insert_one({"_id": number})

    try:
        write(0)
        before = physical.full(site.settings, site.target)
        write(1)
        archive_log(site.settings, site.target)
        server.stop()
        server.program = later_mongod_path()
        server.start()
        write(2)
        archive_log(site.settings, site.target)
        after = physical.incremental(site.settings, site.target)
        write(3)
        archive_log(site.settings, site.target)
        yield Upgraded(site, before, after)
    finally:
        server.stop()


@pytest.fixture(params=[mongod_path, later_mongod_path], ids=["earlier patch", "later patch"])
def program(request: pytest.FixtureRequest) -> Path:
    """The mongod of the host that restores."""
    path: Path = request.param()
    return path


def restored(upgraded: Upgraded, program: Path, base: Archive, folder: Path) -> list[int]:
    """The numbers that are there after `base` was restored, and the log to its end."""
    (other,) = {upgraded.before.chain, upgraded.after.chain} - {base.chain}
    shutil.copytree(upgraded.site.target.root, folder / "target", ignore=shutil.ignore_patterns(str(other)))
    settings = upgraded.site.settings
    settings = settings.model_copy(
        update={
            "target": folder / "target",
            "restore": settings.restore.model_copy(update={"mongod": program}),
        }
    )
    into = folder / "into"
    assert restore(settings, None, into).archive == base.id
    with Scratch(program, into / "data", into / "work").replica_set("fresh") as client:
        return sorted(item["_id"] for item in client.shop.items.find())


def test_rule_8_the_log_goes_on_and_a_new_chain_begins(upgraded: Upgraded) -> None:
    catalogue = read_catalogue(upgraded.site.target)
    assert len(catalogue.spans) == 1
    assert (upgraded.after.kind, upgraded.after.server_version) == ("full", VERSION)
    assert upgraded.before.server_version != VERSION
    assert [chain.archives for chain in catalogue.chains] == [(upgraded.before,), (upgraded.after,)]


def test_each_patch_restores_what_was_taken_before_the_upgrade(
    upgraded: Upgraded, program: Path, tmp_path: Path
) -> None:
    """And the log across it."""
    assert restored(upgraded, program, upgraded.before, tmp_path) == [0, 1, 2, 3]


def test_each_patch_restores_what_was_taken_after_it(upgraded: Upgraded, program: Path, tmp_path: Path) -> None:
    """The earlier one, too: a host that restores may be upgraded last."""
    assert restored(upgraded, program, upgraded.after, tmp_path) == [0, 1, 2, 3]
