"""Sixteen processes over fifty members for some seconds: as if everybody had waited for their turn."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from loyalty.infra.mongo import Mongo, connect
from tests.concurrency.check import judge_database
from tests.concurrency.history import Call
from tests.concurrency.traffic import prepare, run
from tests.servers import Mongod

SECONDS = 10


@pytest.fixture(scope="module")
def history(mongod: Mongod) -> Iterator[tuple[Mongo, list[Call]]]:
    """The ledger after the traffic, and every call."""
    database = f"test_{secrets.token_hex(8)}"
    plan, calls = prepare(mongod.uri, database, count=50, seconds=SECONDS)
    calls += run(plan, 16)
    db = connect(mongod.uri, database, serves_requests=False)
    yield db, calls
    db.client.drop_database(database)
    db.client.close()


def test_nothing_is_overspent_lost_doubled_or_out_of_order(history: tuple[Mongo, list[Call]]) -> None:
    """Cases 3.1, 3.3, 3.4 and 3.28, all at once."""
    verdict = judge_database(*history)
    assert verdict.wrong == []
    assert verdict.entries > 50
    assert [what for what in verdict.calls if "unknown" in what or "unavailable" in what] == []


def lose(call: Call) -> Call:
    return replace(call, keys=((call.member, b"another"), *call.keys[1:]))


def belate(call: Call) -> Call:
    return replace(call, began=call.began + (1 << 50), ended=call.ended + (1 << 50))


def deny(call: Call) -> Call:
    return replace(call, status="refused", code="insufficient_points", seen={"available_points": -7})


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [(lose, "was acknowledged and is lost"), (belate, "stands before one that ended earlier"), (deny, "never was")],
)
def test_the_proof_would_notice(
    history: tuple[Mongo, list[Call]], tamper: Callable[[Call], Call], complaint: str
) -> None:
    db, calls = history
    place = next(place for place, call in enumerate(calls) if call.kind == "redeem" and call.status == "done")
    wrong = judge_database(db, [*calls[:place], tamper(calls[place]), *calls[place + 1 :]]).wrong
    assert any(complaint in found for found in wrong)
