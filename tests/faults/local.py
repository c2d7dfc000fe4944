"""A small cluster on this machine: three mongods, Redis, two applications; each can be killed, frozen, restarted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from loyalty.infra.mongo import connect
from loyalty.ledger.verify import verify
from tests.concurrency.check import Verdict, judge
from tests.faults.nemesis import Fault
from tests.faults.variants import SKEW_FILE
from tests.faults.workload import Connect, Stage, Tally
from tests.servers import PLAIN, Application, Redis, ReplicaSet, Server, ServerError, new_program

AHEAD_S = 90


class Nodes:
    """Two applications and Redis before a replica set. `factory` is what runs: the product, or a broken build of it."""

    key: str

    def __init__(self, directory: Path, mongods: ReplicaSet, *, factory: str, database: str, nodes: int) -> None:
        self.mongods = mongods
        self.database = database
        self.redis = Redis(directory / "redis")
        self.applications = [
            Application(
                directory / f"node{number}",
                mongo_uri=mongods.uri,
                database=database,
                redis_url=self.redis.url,
                workers=1,
                factory=f"tests.faults.variants:{factory}()",
                rate_limit_per_minute="0",
            )
            for number in range(nodes)
        ]
        for application in self.applications:
            application.settings[SKEW_FILE] = str(application.directory / "ahead")
        self.faults: dict[str, Fault] = {
            "primary killed": lambda: _killed(mongods.primary()),
            "primary cut off, then killed": lambda: _cut_off(mongods),
            "primary frozen": lambda: _frozen(mongods.primary()),
            "primary stepped down": lambda: _stepped_down(mongods),
            "secondary lagging": lambda: _lagging(mongods),
            "application killed": lambda: _killed(self.applications[0]),
            "application frozen": lambda: _frozen(self.applications[-1]),
            "application restarted": lambda: _restarted(self.applications[0]),
            "clock ahead": self._ahead,
            "Redis killed": lambda: _killed(self.redis),
        }

    def start(self) -> None:
        self.redis.start()
        self.key = new_program(self.mongods.uri, self.database)
        for application in self.applications:
            application.start()

    def stop(self) -> None:
        for server in (*self.applications, self.redis):
            server.stop()

    @property
    def connects(self) -> Sequence[Connect]:
        """How clients reach each of the nodes."""
        return [_connect(application.url) for application in self.applications]

    def administer(self) -> httpx.Client:
        """A client of the first node that may make programs."""
        return self.connects[0](self.key)

    def mend(self) -> None:
        """Nothing here fails to end."""

    def judge(self, stage: Stage, tally: Tally) -> Verdict:
        """What the ledger says to what the clients were told."""
        db = connect(self.mongods.uri, self.database, serves_requests=False)
        try:
            verdict = judge(list(db.ledger.find({"program": stage.program}).sort("_id")), tally.calls)
            verdict.wrong += [f"{defect.where}: {defect.what}" for defect in verify(db).defects]
        finally:
            db.client.close()
        verdict.wrong += tally.defects
        return verdict

    @contextmanager
    def _ahead(self) -> Iterator[str]:
        file = Path(self.applications[0].settings[SKEW_FILE])
        file.write_text(str(AHEAD_S))
        yield self.applications[0].directory.name
        file.unlink()


@contextmanager
def local_cluster() -> Iterator[Nodes]:
    """Three mongods and two applications, gone at the end."""
    with TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory, ExitStack() as at_end:
        mongods = ReplicaSet(Path(directory) / "set")
        at_end.callback(end, mongods)
        mongods.start()
        nodes = Nodes(Path(directory), mongods, factory="skewable", database="faults", nodes=2)
        at_end.callback(nodes.stop)
        nodes.start()
        yield nodes


def end(mongods: ReplicaSet) -> None:
    """Without the patience of an orderly end: nobody wants their data."""
    for member in mongods.members:
        with suppress(ServerError):
            member.kill()


def _connect(url: str) -> Connect:
    def connect(key: str) -> httpx.Client:
        return httpx.Client(base_url=url, verify=PLAIN, headers={"Authorization": f"Bearer {key}"}, timeout=8)

    return connect


@contextmanager
def _killed(server: Server) -> Iterator[str]:
    server.kill()
    yield server.directory.name
    server.start()


@contextmanager
def _frozen(server: Server) -> Iterator[str]:
    server.freeze()
    yield server.directory.name
    server.thaw()


@contextmanager
def _restarted(server: Server) -> Iterator[str]:
    server.stop()
    server.start()
    yield server.directory.name


@contextmanager
def _stepped_down(mongods: ReplicaSet) -> Iterator[str]:
    primary = mongods.primary()
    mongods.step_down()
    yield primary.name


@contextmanager
def _cut_off(mongods: ReplicaSet) -> Iterator[str]:
    """What the primary takes now nobody else has; then it dies, and the others go on without that.

    The others are killed, not frozen: what has been sent to a frozen one, it finds when it is thawed.
    """
    primary, others = mongods.primary(), mongods.secondaries()
    for other in others:
        other.kill()
    while primary.hello().get("isWritablePrimary"):
        pass  # until it has noticed that it is alone, and stepped down
    primary.kill()
    for other in others:
        other.start()
    yield primary.name
    primary.start()


@contextmanager
def _lagging(mongods: ReplicaSet) -> Iterator[str]:
    """It answers, and applies nothing that is new."""
    secondary = mongods.secondaries()[0]
    secondary.ask({"fsync": 1, "lock": True}, timeout_s=10)
    yield secondary.name
    secondary.ask("fsyncUnlock", timeout_s=10)
