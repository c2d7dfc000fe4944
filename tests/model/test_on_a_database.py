"""Generated histories through the database: in batches, out of order, told twice, and again on an empty one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import HealthCheck, given, settings

from loyalty.events import service as events
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.infra.problems import Problem
from loyalty.ledger.movements import settle
from loyalty.ledger.projection import rebuild
from loyalty.ledger.state import State
from loyalty.ledger.verify import verify
from loyalty.members import service as members
from loyalty.migrations import migrate
from loyalty.points import service as points
from loyalty.points.terms import current
from loyalty.programs import service as programs
from loyalty.programs.policies import Policies
from loyalty.rules import service as rules
from loyalty.rules.model import RuleSet
from loyalty.tiers import service as tiers
from loyalty.tiers.model import TierScheme
from tests.model import programs as strategies
from tests.model.naive import local_day
from tests.model.naive_member import Member, Refused
from tests.model.naive_rules import Json, instant_of

EXAMPLES = 25
NUMBERS = count(1)
MEMBER = "ext:7"
IDS = [f"e{number}" for number in range(5)]

fresh = st.one_of(
    strategies.purchases,
    strategies.purchases,
    strategies.others,
    st.builds(lambda about: {"type": "delivered", "refers_to": about}, st.sampled_from(IDS)),
    st.builds(
        lambda about, amount: {"type": "refund", "refers_to": about, **({"amount": amount} if amount else {})},
        st.sampled_from(IDS),
        st.none() | st.sampled_from(["3.33", "10.00"]),
    ),
)
# An event (None: one that was told before comes again), how long ago it happened, and how long after the last batch it
# is told; 0 means in the same one.
steps = st.tuples(
    st.none() | fresh,
    st.none() | st.sampled_from([0, 3_600, 3 * 86_400]),
    st.sampled_from([0, 0, 0, 60, 86_400, 40 * 86_400]),
)


@pytest.fixture(scope="module")
def databases(mongo_uri: str) -> Iterator[tuple[Mongo, Mongo]]:
    """Two databases that are alike, and stay so as long as the same is told to both."""
    made = [connect(mongo_uri, f"test_{secrets.token_hex(8)}", serves_requests=False) for _ in range(2)]
    with closing(made[0].client), closing(made[1].client):
        for database in made:
            migrate(database, release="test", clock=system_clock)
        yield made[0], made[1]
        for database in made:
            database.client.drop_database(database.name)


def tier_scheme(told: Json) -> TierScheme:
    """The tiers as a client sends them."""
    spend = told["basis"]["type"] == "spend"
    levels = [
        {
            "id": level["id"],
            "name": level["id"],
            "threshold": f"{level['threshold'] / 100:.2f}" if spend else level["threshold"],
            "earn_multiplier": f"{level['multiplier_milli'] / 1000:.3f}",
        }
        for level in told["levels"]
    ]
    window = None if told["basis"]["type"] == "balance" else told["window"]
    return TierScheme.model_validate({**told, "levels": levels, "window": window})


def found(db: Mongo, program: Json, name: str) -> None:
    """The program with a member, from its first instant on."""
    start = instant_of(program["start"])
    policies = Policies.model_validate(program["policies"])
    made = programs.create(
        db, id=name, name="A", currency="USD", timezone=program["zone"], clock=lambda: start, policies=policies
    )
    rule_set = RuleSet.model_validate(program["rules"])
    rules.put_in_force(db, made, rule_set, after=0, published_by="test", clock=lambda: start)
    if program["tiers"] is not None:
        scheme = tier_scheme(program["tiers"])
        tiers.publish(db, made, scheme, expected_version=None, published_by="test", clock=lambda: start)
    members.auto_enrol(db, name, [MEMBER], start)


def batches_of(told: Sequence[Any], start: datetime) -> list[tuple[datetime, list[Json]]]:
    """The events in the order in which they are told, in batches, each with its instant."""
    now, batches = start, [(start, list[Json]())]
    before: list[Json] = []
    for event, ago, later in told:
        if later:
            now += timedelta(seconds=later)
            batches.append((now, []))
        if event is None and not before:
            continue
        if event is None:
            again = before[len(before) // 2]
        else:
            again = {name: value for name, value in event.items() if value not in ([], None)}
            by_points = sum(float(one["amount"]) for one in again.get("payments", []) if one["method"] == "points")
            if by_points > float(again.get("amount", 0)):
                del again["payments"]
            again |= {"source": "till", "member": {"external_id": "7"}, "id": next_id(again, before)}
            if any("amount" in part for part in (again, *again.get("items", []))):
                again["currency"] = "USD"
            if ago is not None and again["type"] != "refund":
                again["occurred_at"] = (now - timedelta(seconds=ago)).isoformat()
            before.append(again)
        batches[-1][1].append(again)
    return batches


def next_id(event: Json, before: list[Json]) -> str:
    """Refunds have names of their own; the others those that refunds ask for."""
    refund = event["type"] == "refund"
    number = sum((one["type"] == "refund") == refund for one in before)
    return f"r{number}" if refund else f"e{number}"


def tell(db: Mongo, name: str, batches: Sequence[tuple[datetime, list[Json]]]) -> list[str]:
    """What became of each event: `done`, `again`, or the code of the refusal."""
    outcomes = []
    for now, batch in batches:
        raw = [orjson.dumps(event) for event in batch]
        for result in events.record_values(db, current(db, name), raw, clock=lambda now=now: now):  # type: ignore[misc]
            if isinstance(result, Problem):
                outcomes.append(result.code)
            else:
                outcomes.append("again" if result.replayed else "done")
    return outcomes


def naively(program: Json, naive: Member, batches: Sequence[tuple[datetime, list[Json]]]) -> list[str]:
    """The same told to the naive member, who hears nothing twice."""
    heard: set[str] = set()
    outcomes = []
    for now, batch in batches:
        for event in batch:
            if event["id"] in heard:
                outcomes.append("again")
                continue
            fact = {name: value for name, value in event.items() if name not in ("source", "member")}
            if "occurred_at" in fact:
                fact["occurred_at"] = datetime.fromisoformat(fact["occurred_at"])
            try:
                naive.do("event", fact, now)
            except Refused:
                outcomes.append("refused")
                continue
            heard.add(event["id"])
            outcomes.append("done")
    return outcomes


def agree(state: State, naive: Member) -> None:
    """The wallets, lot by lot."""
    for name, purse in naive.world.purses.items():
        wallet = state.wallet(name)
        assert wallet.defects() == []
        has = (wallet.available, wallet.pending, wallet.held, wallet.deficit)
        assert has == (purse.available(), purse.pending(), purse.held(), purse.debt), name
        assert {lot.expires_at: lot.points for lot in wallet.lots if lot.activates_at is None} == purse.by_end()


def hashes(db: Mongo, program: str) -> list[bytes]:
    return [bytes(entry["hash"]) for entry in db.ledger.find({"program": program}, {"hash": 1}).sort("_id", 1)]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=strategies.programs, told=st.lists(steps, min_size=2, max_size=12))
def test_batches_repetitions_and_a_replay_change_nothing(
    databases: tuple[Mongo, Mongo], program: Json, told: list[Any]
) -> None:
    """Cases 3.1, 3.2, 3.20, 3.21 and 3.23: the log on an empty database makes the same entries, hash by hash."""
    db, empty = databases
    name, start = f"p{next(NUMBERS)}", instant_of(program["start"])
    batches = batches_of(told, start)
    naive = Member(program, local_day(program["zone"], start))
    found(db, program, name)
    outcomes = tell(db, name, batches)
    expected = naively(program, naive, batches)
    assert [one if one in ("done", "again") else "refused" for one in outcomes] == expected, outcomes
    _, head = points.find_with_head(db, name, MEMBER)
    now = batches[-1][0]
    agree(settle(head.state, now), naive)

    found(empty, program, name)
    assert tell(empty, name, batches) == outcomes
    assert hashes(empty, name) == hashes(db, name)
    rebuild(db)
    rebuild(empty)
    assert verify(db).defects == []
    first, second = (list(one.wallets.find({"program": name})) for one in databases)
    assert first == second
