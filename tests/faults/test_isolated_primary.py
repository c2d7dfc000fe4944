"""What primaries show that do not know the state of things: one that nobody follows, and one that was just elected.

Until the first notices, it takes writes that will never have been; nothing that only it has may be told to anybody: not
as done, not as a balance, not as the reason of a refusal. And nothing may be built on it. The second shows less than
was acknowledged, until it knows what a majority has.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.write_concern import WriteConcern

from loyalty.infra.clock import system_clock
from loyalty.infra.elections import as_of_now
from loyalty.infra.mongo import Document, Mongo, connect
from loyalty.ledger.append import Operation, append, append_together
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.verify import verify
from loyalty.members import service as members
from loyalty.migrations import migrate
from loyalty.points import service as points
from loyalty.programs import service as programs
from tests.faults.local import end
from tests.servers import ReplicaSet, wait_until

PROGRAM = "alone"


@pytest.fixture
def mongods() -> Iterator[ReplicaSet]:
    """Of this test alone, because they die here."""
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory, ExitStack() as at_end:
        mongods = ReplicaSet(Path(directory))
        at_end.callback(end, mongods)
        mongods.start()
        yield mongods


@pytest.fixture
def db(mongods: ReplicaSet) -> Iterator[Mongo]:
    """With a member, ext:1, who has 10 points, and ext:2, who has none."""
    tool = connect(mongods.uri, "alone", serves_requests=False)
    with tool.client:
        migrate(tool, release="test", clock=system_clock)
        programs.create(tool, id=PROGRAM, name="Alone", currency="USD", clock=system_clock)
        for place in "12":
            members.enrol(tool, PROGRAM, handles=[f"ext:{place}"], clock=system_clock)
        append(tool.ledger, [operation(tool, "1", "given", 10)], clock=system_clock)
    db = connect(mongods.uri, "alone")
    yield db
    db.client.close()


def operation(db: Mongo, place: str, key: str, points: int) -> Operation:
    """Give points, or take them when there are less than none."""
    (member,) = members.resolve(db, PROGRAM, [f"ext:{place}"]).values()

    def draft(state, sequence, now):  # type: ignore[no-untyped-def]
        postings = (
            credit(state, "points", points, source="issuance", sequence=sequence)
            if points > 0
            else debit(state, "points", -points, target="spent")
        )
        return Draft("adjust", now, postings, {})

    return Operation(PROGRAM, member.number, (business_key(PROGRAM, key),), request_digest({"points": points}), draft)


@contextmanager
def alone(mongods: ReplicaSet, db: Mongo, wish: Operation) -> Iterator[None]:
    """Meanwhile the primary has no followers, and an entry for `wish` all the same. Afterwards that is gone."""
    primary, others = mongods.primary(), mongods.secondaries()
    for other in others:
        other.kill()

    def in_vain() -> None:
        with suppress(PyMongoError):
            append(db.ledger, [wish], clock=system_clock)

    def is_there() -> bool:
        return db.ledger.find_one({"keys": wish.keys[0]}) is not None

    writer = threading.Thread(target=in_vain)
    writer.start()
    try:
        wait_until(is_there, timeout_s=5, failure=lambda: "the primary did not take it")
        yield
    finally:
        primary.kill()
        writer.join()
        for other in others:
            other.start()
        mongods.primary()
        gone = not is_there()
        primary.start()
    assert gone, "it was not undone, so nothing was proved"


def test_nobody_is_told_what_may_yet_be_undone(mongods: ReplicaSet, db: Mongo) -> None:
    all_of_it = operation(db, "1", "all of it", -10)
    some_of_it = operation(db, "1", "some of it", -5)
    received = operation(db, "2", "received", 5)

    def balance() -> int:
        _, head = points.find_with_head(db, PROGRAM, "ext:1")
        return head.state.wallet("points").available

    def answer(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except PyMongoError:
            return None

    questions: list[Callable[[], Any]] = [
        lambda: append(db.ledger, [all_of_it], clock=system_clock),
        lambda: append(db.ledger, [some_of_it], clock=system_clock),
        lambda: append_together(db.ledger, [some_of_it, received], clock=system_clock),
        balance,
    ]
    with alone(mongods, db, all_of_it), ThreadPoolExecutor() as together:
        done_before, refused, refused_together, shown = together.map(answer, questions)
    assert done_before is None, "what was undone afterwards was said to be done"
    assert refused is None, "an operation was refused for want of points that were not spent"
    assert refused_together is None, "a transfer was refused for want of points that were not spent"
    assert shown in (10, None), "points were missing that were not spent"


def test_nothing_is_built_on_what_is_undone(mongods: ReplicaSet, db: Mongo) -> None:
    """An insert that its primary could not finish goes to the next one, which never had the entry before it."""
    sent = Sent()
    client: MongoClient[Document] = MongoClient(
        mongods.uri, tz_aware=True, serverSelectionTimeoutMS=30_000, event_listeners=[sent]
    )
    patient = client.get_database(db.name, write_concern=WriteConcern("majority", j=True))
    later = operation(db, "1", "later", 7)
    with client, ThreadPoolExecutor() as aside:
        with alone(mongods, db, operation(db, "1", "undone", 5)):
            appended = aside.submit(append, patient.ledger, [later], clock=system_clock)
            wait_until(lambda: sent.inserts > 0, timeout_s=5, failure=lambda: "nothing was inserted")
        (outcome,) = appended.result(timeout=60)
        assert outcome.status == "applied"
        assert verify(patient).defects == []
        _, head = points.find_with_head(patient, PROGRAM, "ext:1")
    assert head.state.wallet("points").available == 17


class Sent(CommandListener):
    """The read concerns of the reads that a client sent, in order, and how many inserts."""

    def __init__(self) -> None:
        self.concerns: list[str] = []
        self.inserts = 0

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate"):
            self.concerns.append(event.command.get("readConcern", {}).get("level", "local"))
        self.inserts += event.command_name == "insert"

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to add."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to add."""


def test_the_first_balance_after_an_election_waits_until_the_primary_knows(mongods: ReplicaSet, db: Mongo) -> None:
    sent = Sent()
    client: MongoClient[Document] = MongoClient(mongods.uri, tz_aware=True, event_listeners=[sent])
    with client:

        def asked() -> list[str]:
            sent.concerns.clear()
            points.find_with_head(client[db.name], PROGRAM, "ext:1")
            return sent.concerns[:]

        asked()
        assert asked() == ["majority"]
        mongods.step_down()
        # Until the driver has heard of the election, it asks the primary that it knows, which may be elected again.
        wait_until(
            lambda: asked()[-2:] == ["linearizable", "majority"], timeout_s=15, failure=lambda: str(sent.concerns)
        )
        assert asked() == ["majority"]


def test_a_read_that_meets_an_election_is_done_again(mongods: ReplicaSet, db: Mongo) -> None:
    primaries: list[Any] = []

    def read(lasting: Mongo) -> None:
        if not primaries:
            mongods.step_down()
            mongods.primary()
        lasting.ledger.find_one()
        primaries.append(lasting.client.address)

    as_of_now(db, "ledger", read)
    assert len(primaries) == 2
    assert primaries[0] == primaries[1]
