"""A mongod of our own on a data directory: for a moment, on the loopback, and gone with whoever started it.

It asks for a password as a real server does: copies of the database are as secret as the database. The key file beside
the data is made for it alone, and its own user `__system` needs no password that anybody chose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from loyalty.backup.errors import BackupError
from loyalty.backup.settings import Settings

Document = dict[str, Any]
Client = MongoClient[Document]

START_S: Final = 120.0
"""What a start may take that has nothing to replay; a journal that was not closed is read in seconds."""
STOP_S: Final = 600.0
"""What a stop may take: everything that memory holds goes to the disk."""

_ALREADY_INITIALIZED: Final = 23


class ScratchFailure(BackupError):
    """A mongod did not start, or did not end as it should; the problem carries its own words."""

    def __init__(self, problem: str, log: Path) -> None:
        super().__init__(f"{problem}: {last_words(log)}.", f"Read {log}.")


@dataclass(frozen=True)
class Scratch:
    """A place for one mongod: `data` is its dbPath, `work` keeps its log and its key.

    `program` is the mongod to run; `cache_gb` the memory that it may use for data.
    """

    program: Path
    data: Path
    work: Path
    cache_gb: float = 0.5

    @classmethod
    def in_folder(cls, settings: Settings, folder: Path) -> Scratch:
        """As a restore lays it out: `data` and `work` in a folder."""
        restore = settings.restore
        return cls(restore.mongod, folder / "data", folder / "work", restore.cache_megabytes / 1024)

    @property
    def log(self) -> Path:
        """What mongod has to say."""
        return self.work / "mongod.log"

    @contextmanager
    def standalone(self, *parameters: str, start_s: float = START_S) -> Iterator[Client]:
        """Run it outside of any replica set, with nothing that works in the background.

        `parameters` are server parameters as NAME=VALUE. It has stopped in order when the block ends.
        """
        quiet = ("disableLogicalSessionCacheRefresh=true", "ttlMonitorEnabled=false")
        with self._running((), (*quiet, *parameters), start_s) as client:
            yield client

    @contextmanager
    def replica_set(self, name: str) -> Iterator[Client]:
        """Run it as the only member of the set `name`, a new one the first time, and wait until it takes writes."""
        with self._running(("--replSet", name), (), START_S) as client:
            host, port = client.address or ("127.0.0.1", 0)
            _lead(client, name, f"{host}:{port}", self.log)
            yield client

    def uri(self, client: Client) -> str:
        """How another process reaches the one that runs. It has the password in it: never print it."""
        host, port = client.address or ("127.0.0.1", 0)
        options = "directConnection=true&authSource=local&authMechanism=SCRAM-SHA-256"
        return f"mongodb://__system:{self._password()}@{host}:{port}/?{options}"

    @contextmanager
    def _running(self, arguments: tuple[str, ...], parameters: tuple[str, ...], start_s: float) -> Iterator[Client]:
        key = self._key()
        port = _free_port()
        command = [
            # With its parent it ends too, however that ended: nobody else knows of it, and it holds the data.
            *("setpriv", "--pdeathsig", "KILL"),
            *(str(self.program), "--dbpath", str(self.data), "--logpath", str(self.log), "--logappend"),
            *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
            # Nothing here runs scripts; without an engine for them it starts where memory cannot be made executable.
            "--noscripting",
            *("--keyFile", str(key), "--wiredTigerCacheSizeGB", f"{self.cache_gb:.2f}"),
            *arguments,
        ]
        # A database without users, such as one that a dump is loaded into, would let everybody on this host in.
        for parameter in ("enableLocalhostAuthBypass=false", "diagnosticDataCollectionEnabled=false", *parameters):
            command += ["--setParameter", parameter]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.work
        )
        client: Client = MongoClient(
            "127.0.0.1",
            port,
            directConnection=True,
            username="__system",
            password=self._password(),
            authSource="local",
            authMechanism="SCRAM-SHA-256",
            serverSelectionTimeoutMS=500,
            socketTimeoutMS=int(STOP_S * 1000),
            retryWrites=False,
            connect=False,
        )
        try:
            _wait_until(lambda: _answers(client), process, self.log, start_s)
            yield client
        except BaseException:
            client.close()
            with contextlib.suppress(ScratchFailure):  # what it ends with matters less than what went wrong
                self._stop(process)
            raise
        client.close()
        self._stop(process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ask it to end. One that cannot is killed: its journal has what it acknowledged."""
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ScratchFailure(f"mongod did not stop within {STOP_S:.0f} s", self.log) from None
        if code != 0:
            raise ScratchFailure(f"mongod ended with {code}", self.log)

    def _password(self) -> str:
        """What the key file makes the password of `__system`."""
        return self._key().read_text()

    def _key(self) -> Path:
        """The key file, made the first time. Nobody but its owner may read it, or mongod refuses it."""
        path = self.work / "scratch.key"
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(256))
        return path


def last_words(log: Path, *, lines: int = 5) -> str:
    """The last errors in a log of mongod, or what it did last if it names none. Never a document of the database."""
    if not log.exists():
        return "it wrote no log"
    errors, others = [], []
    for line in log.read_bytes()[-200_000:].splitlines():
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
            entry = orjson.loads(line)
            if entry["s"] in ("E", "F"):
                errors.append(f"{entry['msg']} {orjson.dumps(entry.get('attr', {})).decode()[:300]}")
            else:
                others.append(entry["msg"])
    return "\n".join(errors[-lines:] or others[-lines:])


def _lead(client: Client, name: str, address: str, log: Path) -> None:
    """Make it a set of one, or find that it is one, and wait until it leads."""
    local = client.local.get_collection("system.replset", write_concern=WriteConcern(w=1))
    found = local.find_one()
    members = [{"_id": 0, "host": address}]
    if found is None:
        client.admin.command("replSetInitiate", {"_id": name, "members": members})
    else:  # it was one before, on another port
        changed = {**found, "members": members, "version": found["version"] + 1}
        client.admin.command("replSetReconfig", changed, force=True)
    deadline = time.monotonic() + START_S
    while not client.admin.command("hello").get("isWritablePrimary"):
        if time.monotonic() > deadline:
            raise ScratchFailure("mongod takes no writes", log)
        time.sleep(0.05)  # a poll


def _answers(client: Client) -> bool:
    try:
        client.admin.command("ping")
    except OperationFailure:
        raise
    except PyMongoError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        if process.poll() is not None:
            raise ScratchFailure("mongod did not start", log)
        if time.monotonic() > deadline:
            raise ScratchFailure(f"mongod did not answer within {patience_s:.0f} s", log)
        time.sleep(0.05)  # a poll: it tells nobody when it is ready


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
