"""Members under concurrency: every handle one member, every member one number, whoever comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.members import service
from loyalty.members.model import IdentityTaken

PROGRAM = "shop"


def test_enrolling_the_same_customers_at_once(database: Mongo) -> None:
    handles = [f"ext:{number:03}" for number in range(60)]

    def enrol(first: int) -> dict[str, int]:
        mine = handles[first:] + handles[:first]
        members = service.auto_enrol(database, PROGRAM, mine, system_clock())
        return {name: member.number for name, member in members.items()}

    with ThreadPoolExecutor(6) as threads:
        views = list(threads.map(enrol, range(0, 60, 10)))
    assert all(view == views[0] for view in views)
    assert set(views[0]) == set(handles)
    assert len(set(views[0].values())) == 60
    assert database.members.count_documents({}) == 60


def test_enrolling_leaves_those_who_are_there(database: Mongo) -> None:
    known = service.enrol(database, PROGRAM, handles=["ext:1", "card:1"], clock=system_clock)
    found = service.auto_enrol(database, PROGRAM, ["card:1", "ext:2", "ext:1", "ext:2"], system_clock())
    assert found["ext:1"].number == found["card:1"].number == known.number
    assert found["ext:1"].handles == ("ext:1", "card:1")
    assert set(found) == {"ext:1", "card:1", "ext:2"}
    assert service.auto_enrol(database, PROGRAM, [], system_clock()) == {}


def test_numbers_are_given_once(database: Mongo) -> None:
    with ThreadPoolExecutor(8) as threads:
        blocks = list(threads.map(lambda size: service.allocate_numbers(database, size), [1, 3, 64, 200] * 10))
    numbers = [number for block in blocks for number in block]
    assert len(numbers) == len(set(numbers)) == 2680
    assert min(numbers) >= 1


def test_resolving_is_one_query_for_all_kinds_of_reference(database: Mongo) -> None:
    ada = service.enrol(database, PROGRAM, handles=["ext:1", "card:1"], clock=system_clock)
    bob = service.enrol(database, PROGRAM, handles=["ext:2"], clock=system_clock)
    service.enrol(database, "other", handles=["ext:3"], clock=system_clock)
    found = service.resolve(
        database, PROGRAM, [ada.id, "card:1", "ext:2", "ext:3"], stages=[{"$set": {"head": {"$add": ["$_id", 1]}}}]
    )
    assert {name: member.number for name, member in found.items()} == {
        ada.id: ada.number,
        "card:1": ada.number,
        "ext:2": bob.number,
    }
    assert found["ext:2"].found == {"head": bob.number + 1}


def test_a_taken_handle_leaves_nothing(database: Mongo) -> None:
    service.enrol(database, PROGRAM, handles=["card:1"], clock=system_clock)
    with pytest.raises(IdentityTaken) as caught:
        service.enrol(database, PROGRAM, handles=["ext:1", "card:1"], clock=system_clock)
    assert caught.value.extra == {"handle": "card:1"}
    assert service.resolve(database, PROGRAM, ["ext:1"]) == {}


def test_search_and_lists_use_an_index(database: Mongo) -> None:
    service.auto_enrol(database, PROGRAM, [f"ext:{number:04}" for number in range(300)], system_clock())
    for wanted in (
        {"program": PROGRAM, "handles": "ext:0001"},
        {"program": PROGRAM, "handles": {"$in": service._beginnings("ext:0001")}},
        {"program": PROGRAM, "_id": {"$gt": 5}},
        {"program": PROGRAM, "status": "blocked", "_id": {"$gt": 5}},
    ):
        plan = database.members.find(wanted).sort("_id", 1).limit(10).explain()
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])


def test_the_request_that_enrolled_a_member_may_come_again(database: Mongo) -> None:
    """As after a lost connection: the member is there, and the client never heard of it."""
    ada = service.enrol(database, PROGRAM, handles=["ext:1"], clock=system_clock, request="k")
    assert service.enrol(database, PROGRAM, handles=["ext:1"], clock=system_clock, request="k").number == ada.number
    with pytest.raises(IdentityTaken):
        service.enrol(database, PROGRAM, handles=["ext:1"], clock=system_clock, request="another")
    with pytest.raises(IdentityTaken):
        service.enrol(database, PROGRAM, handles=["ext:1"], clock=system_clock)
