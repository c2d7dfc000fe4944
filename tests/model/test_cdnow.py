"""A real shop's years through the engine and through the naive model: member by member, they come to the same.

The program is written down here once more, as the naive model reads it: tiers by the spend of a rolling year, points
that wait 14 days and expire at the end of a month 12 months later, double points on the first purchase of a month, and
at most 500 points a month from the base rule. All 69,659 purchases take both about a minute of one processor.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import NamedTuple

import pytest

from loyalty.ops.demo import Purchase, purchases
from tests import cdnow
from tests.model.naive import local_day
from tests.model.naive_member import Member
from tests.model.naive_rules import Json

ZONE = "America/New_York"
PROGRAM: Json = {
    "zone": ZONE,
    "policies": {
        "wallets": {
            "points": {
                "pending": {"type": "period", "days": 14},
                "expiry": {"type": "rolling", "months": 12, "round_up_to": "month"},
            }
        }
    },
    "rules": {
        "rules": [
            {
                "id": "base",
                "type": "points_per_spend",
                "wallet": "points",
                "points": 1,
                "per": "1.00",
                "caps": {"per_month": 500},
            },
            {
                "id": "first-of-month",
                "type": "multiplier",
                "wallet": "points",
                "factor": "2",
                "when": {"field": "counters.purchases.month", "op": "=", "value": 0},
            },
        ]
    },
    "tiers": {
        "basis": {"type": "spend"},
        "window": {"type": "rolling", "months": 12},
        "levels": [
            {"id": "base", "threshold": 0, "multiplier_milli": 1000},
            {"id": "silver", "threshold": 100_00, "multiplier_milli": 1250},
            {"id": "gold", "threshold": 300_00, "multiplier_milli": 1500},
        ],
        "downgrade": {"to": "one_level"},
    },
}


class Came(NamedTuple):
    """What came of one member's purchases: points, purchases that the cap `cut`, changes of level, the last one."""

    purchases: int
    issued: int
    available: int
    pending: int
    expired: int
    cut: int
    moves: Counter[tuple[str, str]]
    level: str


Everybody = dict[str, Came]


def of_engine(history: list[Purchase]) -> Everybody:
    """What the engine says of each customer."""
    terms = cdnow.terms()
    found = {}
    ordered = sorted(history, key=lambda one: one.customer)
    for customer, own in groupby(ordered, key=lambda one: one.customer):
        came = cdnow.replay(terms, list(own))
        (level,) = came.levels
        points = (came.issued["points"], came.available["points"], came.pending["points"], came.expired["points"])
        found[customer] = Came(came.purchases, *points, came.cut, came.moves, level)
    return found


def of_naive(history: list[Purchase]) -> Everybody:
    """What the naive model says of each customer."""
    members: dict[str, Member] = {}
    for one in history:
        if one.customer not in members:
            members[one.customer] = Member(PROGRAM, local_day(ZONE, cdnow.OPENED))
        event = {"id": str(one.row), "type": "purchase", "amount": one.amount, "occurred_at": one.at}
        members[one.customer].do("event", event, one.at)
    return {customer: at_the_end(member) for customer, member in members.items()}


def at_the_end(member: Member) -> Came:
    """What the member has when the history is over."""
    member.do("wait", cdnow.CLOSED)
    world = member.world
    purse = world.purses["points"]
    levels = [level["id"] for level in PROGRAM["tiers"]["levels"]]
    return Came(
        purchases=len(world.known),
        issued=purse.moved("issuance", None),
        available=purse.available(),
        pending=purse.pending(),
        expired=purse.moved(None, "expired"),
        cut=sum(known.cut for known in world.known.values()),
        moves=Counter((levels[before], levels[after]) for _, before, after in world.standing.falls),
        level=levels[world.standing.rank],
    )


def totals(everybody: Everybody) -> Json:
    """The sums over all members."""
    came = list(everybody.values())
    numbers = ("purchases", "issued", "available", "pending", "expired", "cut")
    return {
        **{name: sum(getattr(one, name) for one in came) for name in numbers},
        "members": len(came),
        "levels": Counter(one.level for one in came),
        "moves": sum((one.moves for one in came), Counter()),
    }


@pytest.fixture(scope="module")
def engine() -> Everybody:
    return of_engine(purchases())


@pytest.fixture(scope="module")
def naive() -> Everybody:
    return of_naive(purchases())


def test_every_member_comes_to_the_same(engine: Everybody, naive: Everybody) -> None:
    assert engine.keys() == naive.keys()
    differing = [(customer, engine[customer], naive[customer]) for customer in engine]
    differing = [(customer, one, other) for customer, one, other in differing if one != other]
    assert differing[:3] == [], f"{len(differing)} members differ"


def test_the_totals_are_those_of_both(engine: Everybody, naive: Everybody) -> None:
    assert totals(engine) == totals(naive)
    assert totals(naive) == {
        "purchases": 69_659,
        "members": 23_570,
        "issued": 4_857_560,
        "available": 2_462_353,
        "pending": 50_428,
        "expired": 2_344_779,
        "cut": 1_313,
        "levels": {"base": 20_687, "silver": 2_123, "gold": 760},
        "moves": {
            ("base", "silver"): 6_291,
            ("base", "gold"): 62,
            ("silver", "gold"): 1_641,
            ("silver", "base"): 3_470,
            ("gold", "silver"): 943,
        },
    }
