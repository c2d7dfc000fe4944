"""Filters find whom the closures accept: random conditions over random members, asked of a real MongoDB."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from bson import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loyalty.infra.mongo import Document, Mongo
from loyalty.programs.calendar import Calendar
from loyalty.rules.conditions import check, compile_condition
from loyalty.rules.facts import STATUSES, Facts, MemberFacts
from loyalty.rules.filters import mongo_filter
from tests.random_conditions import CONDITION, DAYS, INTEGERS, OPEN_NAMES, TEXTS, trees

BERLIN = Calendar.of("Europe/Berlin")

INSTANTS = [
    datetime(2024, 2, 28, 22, 59, 59, 999000, tzinfo=timezone.utc),
    datetime(2024, 2, 28, 23, tzinfo=timezone.utc),  # midnight in Berlin: already the leap day
    datetime(2024, 2, 29, 12, tzinfo=timezone.utc),
    datetime(2025, 2, 28, 12, tzinfo=timezone.utc),
    datetime(2025, 3, 1, tzinfo=timezone.utc),
    datetime(2025, 10, 25, 22, tzinfo=timezone.utc),
    datetime(2025, 10, 26, 22, 59, tzinfo=timezone.utc),  # the day of 25 hours has not ended
    datetime(2025, 12, 31, 23, tzinfo=timezone.utc),
]


def optional(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    """The field with a value, with null, or not at all."""
    return st.just({}) | st.just({name: None}) | values.map(lambda value: {name: value})


def merged(*parts: st.SearchStrategy[Document]) -> st.SearchStrategy[Document]:
    return st.tuples(*parts).map(lambda each: {name: value for part in each for name, value in part.items()})


SCALARS = st.sampled_from([*TEXTS, *INTEGERS, Int64(10**12), Int64(1), True, False, None])
STRANGE = st.sampled_from([1.0, 2.5, ["a"], [1, 2], [], {"a": "a"}, datetime(2025, 1, 1)])
ATTRIBUTES = merged(*(optional(name, SCALARS | STRANGE) for name in OPEN_NAMES))
PROFILES = merged(
    optional("birthday", st.sampled_from([day.isoformat() for day in DAYS])),
    optional("language", st.sampled_from([*TEXTS, "en"])),
    optional("attributes", ATTRIBUTES),
)
MEMBERS = merged(
    st.fixed_dictionaries(
        {"status": st.sampled_from(STATUSES), "created_at": st.sampled_from(INSTANTS), "profile": PROFILES}
    ),
)


def facts_of(document: Document, now: datetime) -> Facts:
    member = MemberFacts.of(
        document["profile"],
        status=document["status"],
        created_at=document["created_at"],
        calendar=BERLIN,
    )
    return Facts("visit", "test", now, BERLIN, member)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(MEMBERS, min_size=1, max_size=12),
    st.lists(trees("member"), min_size=1, max_size=8),
    st.sampled_from(INSTANTS),
)
def test_a_filter_finds_whom_the_closure_accepts(
    empty_database: Mongo, members: list[Document], conditions: list[dict[str, Any]], now: datetime
) -> None:
    empty_database.members.delete_many({})
    empty_database.members.insert_many([{"_id": index, **member} for index, member in enumerate(members)])
    stored = list(empty_database.members.find())
    for tree in conditions:
        condition = CONDITION.validate_python(tree)
        assert check(condition, "member") == []
        holds = compile_condition(condition, BERLIN, "EUR")
        found = mongo_filter(condition, calendar=BERLIN, now=now)
        assert {each["_id"] for each in empty_database.members.find(found, {"_id": 1})} == {
            each["_id"] for each in stored if holds(facts_of(each, now))
        }, found


@pytest.mark.parametrize(
    "tree",
    [
        {"lines": "any", "where": {"field": "category", "op": "exists"}},
        {"recurs": "FREQ=DAILY", "from": "2026-01-01"},
        {"field": "event.amount", "op": "exists"},
        {"field": "member.tier", "op": "=", "value": "gold"},
        {"field": "member.segments", "op": "contains", "value": "regulars"},
    ],
)
def test_what_is_not_about_a_member_is_refused(tree: dict[str, Any]) -> None:
    condition = CONDITION.validate_python(tree)
    assert check(condition, "member")
    with pytest.raises(ValueError, match="over a member"):
        mongo_filter(condition, calendar=BERLIN, now=INSTANTS[0])


def test_birthdays_of_leap_days_are_kept_in_common_years(empty_database: Mongo) -> None:
    """Case 3.17: 29 February clamps to the 28th."""
    empty_database.members.insert_many(
        [
            {"_id": 1, "created_at": INSTANTS[0], "profile": {"birthday": "2000-02-29"}},
            {"_id": 2, "created_at": INSTANTS[0], "profile": {"birthday": "2000-02-28"}},
        ]
    )
    condition = CONDITION.validate_python({"field": "member.is_birthday", "op": "=", "value": True})

    def found(now: datetime) -> set[int]:
        return {each["_id"] for each in empty_database.members.find(mongo_filter(condition, calendar=BERLIN, now=now))}

    assert found(datetime(2025, 2, 28, 12, tzinfo=timezone.utc)) == {1, 2}
    assert found(datetime(2024, 2, 28, 12, tzinfo=timezone.utc)) == {2}
    assert found(datetime(2024, 2, 29, 12, tzinfo=timezone.utc)) == {1}
