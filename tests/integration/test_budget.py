"""What one request may cost, counted and not timed: commands to the database, and Python calls.

Both are the same on every machine and at every load, so that a change that makes requests dearer is seen at once.
"""

from __future__ import annotations

import cProfile
import io
import json
import pstats
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import monitoring

from loyalty.app import create_app
from loyalty.auth import service as auth
from loyalty.auth.model import ALL_SCOPES
from loyalty.config import Settings
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.programs import service as programs
from loyalty.rules import service as rules
from loyalty.rules.model import PointsPerSpend, RuleSet

Json = dict[str, Any]


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent, the driver's own checks left out."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name not in ("hello", "saslStart", "saslContinue", "endSessions"):
            self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing more to learn."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing more to learn."""


class Caller:
    """Sends requests into the application without a network, and counts what they cost."""

    def __init__(self, database: Mongo, mongo_uri: str, commands: Commands, tmp_path: Any) -> None:
        program = programs.create(database, id="main", name="Main", currency="USD", clock=system_clock)
        base = PointsPerSpend(type="points_per_spend", id="base", points=1, per="1.00")
        rules.publish(
            database, program, RuleSet(rules=[base]), expected_version=None, published_by="test", clock=system_clock
        )
        _, secret = auth.create_key(
            database, program="main", mode="live", name="test", scopes=ALL_SCOPES, clock=system_clock
        )
        self.authorization = f"Bearer {secret}"
        self.commands = commands
        settings = Settings(
            mongo_uri=mongo_uri,
            mongo_database=database.name,
            secret_key="s" * 40,
            storage_path=tmp_path,
            log_level="error",
        )
        self.app = create_app(settings)

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        raw = json.dumps(body).encode() if body is not None else b""
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_AUTHORIZATION": self.authorization,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(raw)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(raw),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        status = 0

        def start_response(line: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line.split()[0])
            return lambda _: None

        answer = b"".join(self.app(environ, start_response))
        return status, json.loads(answer)

    def cost(self, method: str, path: str, body: Any = None) -> tuple[list[str], int, int]:
        """The commands, the Python calls, and the status of one request."""
        self.commands.names.clear()
        profile = cProfile.Profile()
        profile.enable()
        status, _ = self.send(method, path, body)
        profile.disable()
        return list(self.commands.names), pstats.Stats(profile).total_calls, status  # type: ignore[attr-defined]


@pytest.fixture
def caller(database: Mongo, mongo_uri: str, tmp_path: Any) -> Iterator[Caller]:
    commands = Commands()
    monitoring.register(commands)
    caller = Caller(database, mongo_uri, commands, tmp_path)
    for number in range(3):  # caches are warm, as they are on a server
        assert caller.send("POST", "/v1/events", purchase(f"warm-{number}"))[0] == 201
        assert caller.send("GET", "/v1/members/ext:00001/balance")[0] == 200
    yield caller
    caller.app.extensions["loyalty"].services.db.client.close()
    monitoring._LISTENERS.command_listeners.remove(commands)


def purchase(number: str, member: str = "00001") -> Json:
    return {
        "source": "till",
        "id": number,
        "type": "purchase",
        "member": {"external_id": member},
        "occurred_at": "2026-02-01T12:00:00Z",
        "amount": "11.77",
        "currency": "USD",
    }


def test_an_earn_is_two_commands_and_few_calls(caller: Caller) -> None:
    commands, calls, status = caller.cost("POST", "/v1/events", purchase("1"))
    assert status == 201
    assert commands == ["aggregate", "insert"]
    assert calls <= 2100  # two thirds of them the driver's, for two commands


def test_an_enrolling_earn_writes_the_member_and_the_entry(caller: Caller) -> None:
    commands, _, status = caller.cost("POST", "/v1/events", purchase("1", "00002"))
    assert status == 201
    assert commands == ["aggregate", "find", "insert", "insert"]  # the second: whether the customer was erased


def test_a_balance_is_one_command(caller: Caller) -> None:
    commands, calls, status = caller.cost("GET", "/v1/members/ext:00001/balance")
    assert status == 200
    assert commands == ["aggregate"]
    assert calls <= 1300


def test_a_batch_needs_hardly_more_commands_than_one_event(caller: Caller) -> None:
    events = [purchase(str(number), f"{number % 100:05}") for number in range(500)]
    caller.send("POST", "/v1/events/batch", events[:100])
    commands, _, status = caller.cost("POST", "/v1/events/batch", events[100:])
    assert status == 200
    # Repetitions, members, where the chains end (the wallets know, or the ledger is searched), entries.
    assert commands == ["find", "aggregate", "find", "find", "aggregate", "insert"]


def test_a_repeated_batch_is_found_and_then_confirmed_by_a_majority(caller: Caller) -> None:
    events = [purchase(str(number), f"{number % 100:05}") for number in range(500)]
    caller.send("POST", "/v1/events/batch", events)
    commands, _, status = caller.cost("POST", "/v1/events/batch", events)
    assert status == 200
    assert commands == ["find", "find"]
