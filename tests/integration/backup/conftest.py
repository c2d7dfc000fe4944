"""A member with a source program of its own, as it is on a server."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest

from loyalty.backup.manifest import Archive
from loyalty.backup.sealed import read_identity, read_sealed
from loyalty.backup.settings import load_settings
from loyalty.backup.target import initialise
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.kept import Kept
from tests.servers import REPLICA_SET, REPOSITORY, Member, Mongod

SOURCE = REPOSITORY / "roles" / "backup" / "files" / "loyalty-backup-source"


def source_command(member: Member) -> tuple[str, ...]:
    """How that member's source program is started where no SSH is between."""
    configuration = member.directory / "backup-source.json"
    configuration.write_text(
        json.dumps({"host": "127.0.0.1", "port": member.port, "ca_file": None, "data_path": str(member.data)})
    )
    return (sys.executable, str(SOURCE), str(configuration))


@pytest.fixture(scope="module")
def lone_member(servers_directory: Path) -> Iterator[Mongod]:
    """A replica set of one for tests that lock it and fill it."""
    server = Mongod(servers_directory / f"backup-{secrets.token_hex(4)}")  # each module begins with an empty one
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Site:
    """A backup host of a site: its settings, its target and its keys, in a folder."""

    def __init__(
        self, folder: Path, members: Sequence[Member], *, password: str | None = None, **limits: float
    ) -> None:
        self.folder = folder
        self.path = folder / "backup.toml"
        target = folder / "target"
        target.mkdir(parents=True)
        (folder / "backup_passphrase").write_text("correct horse battery staple")
        (folder / "backup_certificate_key").write_text(base64.b64encode(secrets.token_bytes(32)).decode())
        (folder / "backup_identity").write_text(str(pyrage.x25519.Identity.generate()))
        if password is not None:
            (folder / "backup_password").write_text(password)
        self.path.write_text(
            f'site = "acme"\ntarget = "{target}"\nallow_same_disk = true\nreserve_megabytes = 1\n'
            f'[database]\nreplica_set = "{REPLICA_SET}"\nname = "loyalty"\n'
            + ('user = "loyalty_backup"\npassword_file = "backup_password"\n' if password else "")
            + "[limits]\n"
            + "".join(f"{name} = {value}\n" for name, value in {"primary_lock_seconds": 30, **limits}.items())
            + "[log]\nevery_seconds = 1\nwindow_hours = 0.0000001\n"
            + f'[restore]\nmongod = "{mongod_path()}"\ncache_megabytes = 256\n'
            + f'[drill]\ndirectory = "{folder}/drill"\n'
            + "".join(
                f'[[members]]\naddress = "{member.address}"\ncommand = {json.dumps(source_command(member))}\n'
                for member in members
            )
        )
        self.settings = load_settings(self.path)
        self.target = initialise(self.settings)
        self.identity = read_identity(self.settings.identity_file)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The program, as an operator types it."""
        return subprocess.run(
            [sys.executable, "-m", "loyalty.backup", "--settings", str(self.path), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=REPOSITORY,
        )

    def entries(self, archive: Archive) -> list[bytes]:
        """The raw entries of a slice."""
        content = b"".join(read_sealed(self.target.slice(archive), self.identity))
        found = []
        start = 0
        while start < len(content):
            end = start + int.from_bytes(content[start : start + 4], "little")
            found.append(content[start:end])
            start = end
        return found


@pytest.fixture
def site(tmp_path: Path, lone_member: Mongod) -> Site:
    """A backup host for the lone member."""
    return Site(tmp_path / "host", [lone_member])


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with a bit of everything: see `Kept`. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("original")
    kept = Kept(folder / "target")
    kept.fill(folder / "storage")
    kept.fill_repositories()
    return kept.target.root
