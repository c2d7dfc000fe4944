"""A member with a source program of its own, as it is on a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import REPOSITORY, Member, Mongod

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
    server = Mongod(servers_directory / "backup")
    try:
        server.start()
        yield server
    finally:
        server.stop()
