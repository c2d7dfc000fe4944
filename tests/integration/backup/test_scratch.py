"""The mongod of a restore: nobody but the one who started it gets in, and it never outlives that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from loyalty.backup.scratch import Client, Scratch, ScratchFailure
from loyalty.ops.embedded import mongod_path
from tests.servers import REPOSITORY, wait_until

_PROGRAM = """
import sys, time
from pathlib import Path
from loyalty.backup.scratch import Scratch
folder = Path(sys.argv[2])
with Scratch(Path(sys.argv[1]), folder / "data", folder).standalone() as client:
    print(client.admin.command("serverStatus")["pid"], flush=True)
    time.sleep(600)  # the test kills this process long before
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "data").mkdir()
    return Scratch(mongod_path(), tmp_path / "data", tmp_path, cache_gb=0.25)


def test_strangers_see_nothing(scratch: Scratch) -> None:
    with scratch.standalone() as client:
        host, port = client.address or ("", 0)
        assert host == "127.0.0.1"
        stranger: Client = MongoClient(host, port, directConnection=True)
        with stranger, pytest.raises(OperationFailure, match="authentication"):
            stranger.list_database_names()
        arguments = Path(f"/proc/{client.admin.command('serverStatus')['pid']}/cmdline").read_bytes()
        assert scratch.uri(client).split(":")[2].split("@")[0].encode() not in arguments
    assert (scratch.work / "scratch.key").stat().st_mode & 0o777 == 0o400


def test_it_ends_with_who_started_it(scratch: Scratch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(scratch.program), str(scratch.work)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        mongod = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not _runs(mongod), timeout_s=10, failure=lambda: f"{mongod} still runs")
    with scratch.standalone():  # the data is free, and in order
        pass


def test_what_mongod_says_is_told(scratch: Scratch) -> None:
    (scratch.data / "storage.bson").write_bytes(b"")
    with pytest.raises(ScratchFailure, match="mongod did not start") as failure, scratch.standalone():
        pass
    assert "storage.bson cannot be empty" in failure.value.problem
    assert str(scratch.log) in failure.value.remedy


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
