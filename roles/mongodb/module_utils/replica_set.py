"""What the modules of this role share: asking members over TLS, and what a replica set says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

try:
    from pymongo import MongoClient
    from pymongo.errors import ConnectionFailure, PyMongoError
except ImportError:
    MongoClient = None

NO_PYMONGO = "PyMongo is missing in the Python of this task. Let ansible_python_interpreter name one."
PRIMARY, SECONDARY = 1, 2
# What every module here is told.
ACCESS_OPTIONS = {
    "port": {"type": "int", "required": True},
    "ca_file": {"type": "path", "required": True},
    "admin_password": {"type": "str", "required": True, "no_log": True},
    "timeout_seconds": {"type": "int", "default": 120},
}


class Refused(Exception):
    """The set is not where it should be; the message says what to do."""


@dataclass(frozen=True)
class Access:
    """How to reach members: the port of all, who signed their certificates, the administrator's password."""

    port: int
    ca_file: str
    password: str

    def client(self, host: str = "localhost", *, as_admin: bool = True) -> Any:
        """A client of this very member (HOST or HOST:PORT). Who is no administrator may ask `hello`."""
        name, _, port = host.partition(":")
        return MongoClient(
            name,
            int(port or self.port),
            directConnection=True,
            tls=True,
            tlsCAFile=self.ca_file,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=2000,
            socketTimeoutMS=30_000,
            **({"username": "admin", "password": self.password} if as_admin else {}),
        )

    def ask(self, host: str, command: str | dict[str, Any], *, as_admin: bool = True) -> dict[str, Any]:
        """The answer of one member to one command. PyMongoError when it gives none."""
        with self.client(host, as_admin=as_admin) as client:
            answer: dict[str, Any] = client.admin.command(command)
            return answer

    def hello(self, host: str = "localhost") -> dict[str, Any]:
        """What a member says of itself; empty when it says nothing."""
        try:
            return self.ask(host, "hello", as_admin=False)
        except ConnectionFailure:
            return {}


def until(condition: Callable[[], Any], deadline: float, remedy: Callable[[], str]) -> Any:
    """What `condition` gives as soon as that is true. Refused with `remedy` after `deadline` (time.monotonic).

    Members close connections when they change their part: what does not answer is asked again.
    """
    while True:
        try:
            if found := condition():
                return found
        except ConnectionFailure:
            pass
        if time.monotonic() > deadline:
            raise Refused(remedy())
        time.sleep(0.1)


def find_primary(access: Access, hosts: Iterable[str], deadline: float) -> str:
    """HOST:PORT of the primary, which may be none of `hosts`. Refused when none was elected by `deadline`."""

    def look() -> str:
        for host in hosts:
            primary = str(access.hello(host).get("primary") or "")
            if primary and access.hello(primary).get("isWritablePrimary"):
                return primary
        return ""

    return str(
        until(
            look,
            deadline,
            lambda: (
                "No primary was elected. A majority of the members must run and reach each other: "
                "journalctl -u mongod on each, and the names in /etc/hosts."
            ),
        )
    )


@dataclass(frozen=True)
class Condition:
    """How the members are, as the primary sees them: the votes, who answers, and how far each lags."""

    primary: str
    votes: dict[str, int]
    states: dict[str, int]
    lags_seconds: dict[str, float]

    @property
    def dead(self) -> list[str]:
        """Members that the primary gets no answer from."""
        return [host for host, state in self.states.items() if STATES[state] in ("UNKNOWN", "DOWN")]

    def has_caught_up(self, host: str, lag_seconds: float) -> bool:
        """Whether `host` is a secondary (or the primary) that lags by no more than that."""
        return self.states.get(host) in (PRIMARY, SECONDARY) and self.lags_seconds[host] <= lag_seconds

    def majority_without(self, host: str, lag_seconds: float) -> bool:
        """Whether the members that have caught up are a majority of all votes, `host` not counted."""
        there = [name for name in self.votes if name != host and self.has_caught_up(name, lag_seconds)]
        return sum(self.votes[name] for name in there) > sum(self.votes.values()) // 2

    def __str__(self) -> str:
        """For a message: every member with its state and lag."""
        return ", ".join(
            f"{host} {STATES[state]}" + (f" {self.lags_seconds[host]:.0f} s behind" if state == SECONDARY else "")
            for host, state in self.states.items()
        )


STATES = {
    0: "STARTUP", 1: "PRIMARY", 2: "SECONDARY", 3: "RECOVERING", 5: "STARTUP2",
    6: "UNKNOWN", 7: "ARBITER", 8: "DOWN", 9: "ROLLBACK", 10: "REMOVED",
}  # fmt: skip


def condition(access: Access, primary: str) -> Condition:
    """How the members are, asked of the primary. PyMongoError when it does not answer."""
    with access.client(primary) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        members = client.admin.command("replSetGetStatus")["members"]
    newest = next((m["optimeDate"] for m in members if m["state"] == PRIMARY), None)
    return Condition(
        primary=primary,
        votes={member["host"]: int(member["votes"]) for member in config["members"]},
        states={member["name"]: int(member["state"]) for member in members},
        lags_seconds={
            member["name"]: max(0.0, (newest - member["optimeDate"]).total_seconds())
            if newest and "optimeDate" in member
            else float("inf")
            for member in members
        },
    )


def step_down(access: Access, primary: str, hosts: Iterable[str], deadline: float) -> str:
    """Let the primary hand over to a member that has caught up; HOST:PORT of the new one."""
    with access.client(primary) as client:
        try:
            client.admin.command({"replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 10})
        except ConnectionFailure:
            pass  # It closes connections when it steps down.
        except PyMongoError as error:
            raise Refused(
                f"{primary} could not step down: {error}. Another member that may lead must have caught up: "
                "journalctl -u mongod on each."
            ) from error
    leader = until(
        lambda: next((found for found in [_leader(access, hosts)] if found and found != primary), ""),
        deadline,
        lambda: f"{primary} stepped down, and no other member was elected. Look at: journalctl -u mongod on each.",
    )
    # It would not stand for election for the rest of the 60 s, and may be the only one left who can.
    with access.client(primary) as client:
        client.admin.command("replSetFreeze", 0)
    return str(leader)


def _leader(access: Access, hosts: Iterable[str]) -> str:
    return next((host for host in hosts if access.hello(host).get("isWritablePrimary")), "")
