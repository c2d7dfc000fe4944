"""Public ids are reversible, sort like what they stand for, and no other text passes for one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.infra import ids

MEMBERS = st.integers(0, (1 << 40) - 1)
ENTRIES = st.integers(0, (1 << 63) - 1)
INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc))


@given(MEMBERS)
def test_a_member_id_leads_back_to_its_number(number: int) -> None:
    assert ids.member_number(ids.member_id(number)) == number


@given(ENTRIES)
def test_an_entry_id_leads_back_to_its_number(number: int) -> None:
    assert ids.entry_number(ids.entry_id(number)) == number


@given(ENTRIES, ENTRIES)
def test_entry_ids_sort_like_their_numbers(one: int, other: int) -> None:
    assert (ids.entry_id(one) < ids.entry_id(other)) == (one < other)


@given(st.text(max_size=24))
def test_any_text_names_at_most_the_id_that_is_written_like_it(text: str) -> None:
    member, entry = ids.member_number(text), ids.entry_number(text)
    assert member is None or ids.member_id(member) == text
    assert entry is None or ids.entry_id(entry) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mem_",
        "mem_0000000",
        "mem_000000000",
        "mem_0000000I",
        "mem_0000000O",
        "MEM_00000000",
        "ent_00000000",
    ],
)
def test_what_looks_like_a_member_id_and_is_none(text: str) -> None:
    assert ids.member_number(text) is None


def test_an_entry_number_stays_within_what_the_database_stores() -> None:
    assert ids.entry_number("ent_7zzzzzzzzzzzz") == (1 << 63) - 1
    assert ids.entry_number("ent_8000000000000") is None


def test_a_number_without_room_is_an_error_and_not_a_wrong_id() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ids.member_id(1 << 40)


@given(INSTANTS)
def test_fresh_ids_differ_and_keep_the_order_of_time(now: datetime) -> None:
    first, second = ids.new_id("rew", now), ids.new_id("rew", now)
    later = ids.new_id("rew", now + timedelta(milliseconds=1))
    assert first != second
    assert max(first, second) < later
    assert len(first) == len("rew_") + 26
