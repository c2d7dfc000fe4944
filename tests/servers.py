"""Real servers for the tests: MongoDB as a replica set of one or several, Redis, and the application under gunicorn.

Nothing here stands in for anything. Each server is a child process with its own folder, killable and
startable again on the same data, so that a fault test can cut its power (`kill`), hang it (`freeze`) and
bring it back (`start`).
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from loyalty.auth import service as auth
from loyalty.auth.model import ALL_SCOPES
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import connect
from loyalty.migrations import migrate
from loyalty.ops.embedded import mongod_path
from loyalty.programs import service as programs

REPOSITORY = Path(__file__).resolve().parent.parent
REPLICA_SET = "loyalty"
SETTINGS = {
    "electionTimeoutMillis": 2000,
    "heartbeatIntervalMillis": 500,
    "catchUpTimeoutMillis": 1000,
    "chainingAllowed": False,
}
"""Of the replica set, as the role mongodb has them (tests/templates/test_mongodb.py)."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of clients to servers that speak no TLS. By itself httpx reads all CAs of the system for each client, which
takes more processor time than most tests."""
_PORTS = range(20_000, 32_000)  # below net.ipv4.ip_local_port_range


class ServerError(RuntimeError):
    """A server did not come up; the message carries the end of its log."""


class Server:
    """One child process: `command` is what runs, `log` where it writes, `is_ready` how its readiness is seen.

    The process leads a session of its own, so that a signal reaches its workers and never the tests.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.is_frozen = False
        directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """The whole environment of the process; None means that of the tests."""
        return None

    def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether it was started and neither stopped nor killed since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    def start(self, *, timeout_s: float = 30) -> None:
        """Start the process and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.directory,
                start_new_session=True,
            )
        wait_until(self._is_up, timeout_s=timeout_s, failure=self._failure)

    def kill(self) -> None:
        """SIGKILL the process and every child of it: what a power cut does to software."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """Ask it to end, and insist after 10 s."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP: the port still answers the TCP handshake, and nothing after it."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
            self.is_frozen = False

    def _is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise ServerError(self._failure())
        return self.is_ready()

    def _failure(self) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-25:] if self.log.exists() else []
        return f"{self.name} did not come up. The end of its log:\n" + "\n".join(tail)


class Member(Server):
    """A mongod with a place in a replica set; ready when it answers and, once the set exists, serves reads in it."""

    def __init__(self, directory: Path, name: str = "mongod") -> None:
        super().__init__(name, directory)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.data = directory / "data"
        self.data.mkdir(exist_ok=True)

    def command(self) -> list[str]:
        # A small cache (the default takes half of the memory) and no diagnostics: two cores serve all the
        # tests.
        return [
            str(mongod_path()),
            *("--dbpath", str(self.data)),
            *("--bind_ip", "127.0.0.1", "--port", str(self.port), "--nounixsocket"),
            *("--replSet", REPLICA_SET),
            *("--wiredTigerCacheSizeGB", "0.25"),
            # Files of the journal are 100 MB, whatever is in them, and each backup of a test would read and store one.
            *("--wiredTigerEngineConfigString", "log=(file_max=8MB)"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A secondary leaves a source that hangs in seconds; else a new primary has no majority for ten.
            *("--setParameter", "oplogNetworkTimeoutBufferSeconds=1"),
            *("--setParameter", "oplogFetcherSteadyStateMaxFetcherRestarts=0"),
        ]

    def ask(self, command: str | dict[str, Any], *, timeout_s: float = 1) -> dict[str, Any]:
        """The answer of this very member to an administrator's command. PyMongoError when it gives none in time."""
        with MongoClient[dict[str, Any]](
            f"mongodb://{self.address}/?directConnection=true",
            serverSelectionTimeoutMS=int(timeout_s * 1000),
            socketTimeoutMS=int(timeout_s * 1000),
        ) as client:
            return client.admin.command(command)

    def hello(self) -> dict[str, Any]:
        """What the member says of itself; empty when it says nothing."""
        try:
            return self.ask("hello")
        except PyMongoError:
            return {}

    def is_ready(self) -> bool:
        hello = self.hello()
        return bool(hello.get("isreplicaset") or hello.get("isWritablePrimary") or hello.get("secondary"))


class Mongod(Member):
    """A replica set of one, so that majority writes, change streams and transactions are the real ones."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._initiated = False

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?replicaSet={REPLICA_SET}"

    def connect(self) -> MongoClient[dict[str, Any]]:
        """A client of the tests' own; whoever calls closes it."""
        return MongoClient(self.uri, tz_aware=True, serverSelectionTimeoutMS=10_000)

    def is_ready(self) -> bool:
        if not self._initiated:
            if not super().is_ready():
                return False
            _initiate([self])
            self._initiated = True
        return bool(self.hello().get("isWritablePrimary"))


class GuardedMongod(Mongod):
    """As on a real site: nobody without a password, but for the first user, who is made on its own host."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.keyfile = directory / "keyfile"
        self.keyfile.touch(mode=0o600)
        self.keyfile.write_text(secrets.token_hex(64))

    def command(self) -> list[str]:
        return [*super().command(), "--auth", "--keyFile", str(self.keyfile)]


class ReplicaSet:
    """Several mongods with equal votes and the elections of a real site (`roles/mongodb`).

    Each of `members` is a `Server`: `kill()` and `start()` are a crash and a restart on the same data, `freeze()` and
    `thaw()` a hang. The set finds its new primary by itself.
    """

    def __init__(self, directory: Path, *, members: int = 3) -> None:
        self.members = [Member(directory / f"mongod{number}", f"mongod{number}") for number in range(members)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={REPLICA_SET}"

    def start(self) -> None:
        """Start all members, make them a set, and wait until each of them has its place."""
        with ThreadPoolExecutor(len(self.members)) as together:
            list(together.map(Member.start, self.members))
        _initiate(self.members)
        self.wait_until_whole()

    def stop(self) -> None:
        """Kill all: a member that is asked to end first looks for a successor, and nobody needs the data."""
        for member in self.members:
            if member.is_running:
                member.kill()

    def primary(self, *, timeout_s: float = 30) -> Member:
        """The member that takes writes now: the one of the latest term, should a frozen one still believe it is.

        ServerError when there is none for `timeout_s`.
        """
        found: list[Member] = []

        def look() -> bool:
            answers = [(member.hello(), member) for member in self.members if not member.is_frozen]
            primaries = [(answer["electionId"], member) for answer, member in answers if _is_primary(answer)]
            found[:] = [max(primaries, key=lambda pair: pair[0])[1]] if primaries else []
            return bool(found)

        wait_until(look, timeout_s=timeout_s, failure=lambda: f"no primary among {self.uri}")
        return found[0]

    def secondaries(self) -> list[Member]:
        """The other members, running or not."""
        primary = self.primary()
        return [member for member in self.members if member is not primary]

    def step_down(self) -> None:
        """Let the primary hand over to another member, as for maintenance."""
        self.primary().ask({"replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 10}, timeout_s=15)

    def wait_until_whole(self, *, timeout_s: float = 60) -> None:
        """Until every member is primary or secondary, as it says itself, all name the same primary, and all follow it.

        A member that has just come back says that it is a secondary while it still looks for somebody to follow. Were
        the primary to hang just then, that would be a second fault at the same time, and cost 20 s.
        """

        def whole() -> bool:
            answers = [member.hello() for member in self.members]
            placed = all(_is_primary(answer) or answer.get("secondary") for answer in answers)
            primaries = {answer.get("primary") for answer in answers}
            return placed and len(primaries) == 1 and None not in primaries and self._all_follow()

        wait_until(whole, timeout_s=timeout_s, failure=lambda: f"a member is missing: {self.states()}")

    def _all_follow(self) -> bool:
        note = {
            "appendOplogNote": 1,
            "data": {"whole": 1},
            "writeConcern": {"w": len(self.members), "wtimeout": 1000},
        }
        try:
            return "writeConcernError" not in self.primary().ask(note, timeout_s=2)
        except PyMongoError:
            return False

    def states(self) -> dict[str, str]:
        """What each member says it is: primary, secondary, neither (it starts, recovers or rolls back) or silent."""
        return {member.name: "silent" if member.is_frozen else _state(member.hello()) for member in self.members}


def _is_primary(hello: Mapping[str, Any]) -> bool:
    return bool(hello.get("isWritablePrimary"))


def _state(hello: Mapping[str, Any]) -> str:
    if not hello:
        return "silent"
    return "primary" if _is_primary(hello) else "secondary" if hello.get("secondary") else "neither"


def _initiate(members: Sequence[Member]) -> None:
    """Make the members a set. It elects its primary within one election timeout."""
    configuration = {
        "_id": REPLICA_SET,
        "members": [{"_id": number, "host": member.address} for number, member in enumerate(members)],
        "settings": SETTINGS,
    }
    members[0].ask({"replSetInitiate": configuration}, timeout_s=15)


class Redis(Server):
    """Redis on a socket in its folder; append-only, as on a real server.

    Keep the folder's name short: a socket's address has room for about 100 bytes.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__("redis", directory)
        self.socket = directory / "redis.sock"

    def command(self) -> list[str]:
        binary = shutil.which("redis-server")
        if binary is None:
            raise ServerError("redis-server is not installed. Run: apt-get install redis-server")
        return [
            binary,
            *("--port", "0", "--unixsocket", str(self.socket)),
            *("--dir", str(self.directory)),
            *("--appendonly", "yes", "--save", ""),
        ]

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


class Application(Server):
    """The application as it runs on a server: gunicorn with our configuration, on a port of the loopback."""

    def __init__(
        self,
        directory: Path,
        *,
        mongo_uri: str,
        database: str,
        redis_url: str | None,
        workers: int = 2,
        factory: str = "loyalty.app:create_app()",
        **settings: str,
    ) -> None:
        super().__init__("gunicorn", directory)
        self.factory = factory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.workers = workers
        metrics = directory / "metrics"
        metrics.mkdir(exist_ok=True)
        storage = directory / "storage"
        storage.mkdir(exist_ok=True)
        self.settings = {
            "LOYALTY_MONGO_URI": mongo_uri,
            "LOYALTY_MONGO_DATABASE": database,
            "LOYALTY_SECRET_KEY": secrets.token_urlsafe(48),
            "LOYALTY_SEAL_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "LOYALTY_STORAGE_PATH": str(storage),
            "LOYALTY_PUBLIC_URL": self.url,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            **({"LOYALTY_REDIS_URL": redis_url} if redis_url else {}),
            **{f"LOYALTY_{name.upper()}": value for name, value in settings.items()},
        }

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn"),
            *("--config", str(REPOSITORY / "loyalty" / "gunicorn.conf.py")),
            *("--bind", f"127.0.0.1:{self.port}", "--workers", str(self.workers)),
            self.factory,
        ]

    def environment(self) -> Mapping[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
        return {**inherited, "PYTHONPATH": str(REPOSITORY), **self.settings}

    def is_ready(self) -> bool:
        """Alive, which is not the same as able to reach its database: a fault test starts it without one."""
        try:
            return httpx.get(f"{self.url}/healthz", verify=PLAIN, timeout=2).is_success
        except httpx.TransportError:
            return False


def new_program(mongo_uri: str, database: str, *, currency: str = "USD") -> str:
    """Migrate the database, make a program with a name of its own, and return a key to it with every scope."""
    db = connect(mongo_uri, database, serves_requests=False)
    try:
        migrate(db, release="test", clock=system_clock)
    finally:
        db.client.close()
    return another_program(mongo_uri, database, currency=currency)


def another_program(mongo_uri: str, database: str, *, currency: str = "USD") -> str:
    """As `new_program`, in a database that was migrated: to look whether it was takes longer than all the rest."""
    db = connect(mongo_uri, database, serves_requests=False)
    try:
        program = programs.create(
            db, id=f"test-{secrets.token_hex(6)}", name="A test", currency=currency, clock=system_clock
        )
        _, secret = auth.create_key(
            db, program=program.id, mode=program.mode, name="test", scopes=ALL_SCOPES, clock=system_clock
        )
        return secret
    finally:
        db.client.close()


def free_port() -> int:
    """A port of the loopback that nobody listened on a moment ago.

    It is none of those that the kernel gives to connections: a server that was killed must find it free again,
    however many clients have tried to reach it meanwhile.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], *, timeout_s: float, failure: Callable[[], str]) -> None:
    """Poll until `condition` holds; ServerError with what `failure` says after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(failure())
        time.sleep(0.05)  # a poll: servers are other processes
