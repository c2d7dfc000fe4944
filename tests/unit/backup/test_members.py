"""Whom a backup asks first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loyalty.backup.manifest import ClusterTime
from loyalty.backup.members import Standing, in_order
from loyalty.backup.settings import Member

NOW = 1_796_000_000


def standing(
    name: str,
    role: str = "secondary",
    *,
    hidden: bool = False,
    passive: bool = False,
    beside_application: bool = False,
    lag_s: int = 0,
) -> Standing:
    top = ClusterTime(NOW - lag_s, 1)
    member = Member(address=f"{name}:27017", command=("/x",), beside_application=beside_application)
    return Standing(member, "primary" if role == "primary" else "secondary", hidden, passive or hidden, top, top)


def names(found: list[Standing], **options: str) -> list[str]:
    return [one.member.address.partition(":")[0] for one in in_order(found, most_lag_s=60, **options)]


def test_hidden_then_passive_then_least_behind_then_the_primary() -> None:
    found = [
        standing("primary", "primary"),
        standing("behind", lag_s=5),
        standing("even"),
        standing("passive", passive=True, lag_s=9),
        standing("hidden", hidden=True, lag_s=20),
    ]
    assert names(found) == ["hidden", "passive", "even", "behind", "primary"]


def test_the_host_that_serves_requests_is_left_alone() -> None:
    """As the third vote of three servers, which never leads and is the application's host."""
    found = [
        standing("db1", "primary"),
        standing("box1", passive=True, beside_application=True),
        standing("db2", lag_s=3),
    ]
    assert names(found) == ["db2", "box1", "db1"]
    assert names(found, favourite="box1:27017") == ["box1", "db2", "db1"]


def test_the_favourite_comes_before_other_secondaries_but_a_primary_is_nobodys() -> None:
    found = [standing("primary", "primary"), standing("hidden", hidden=True), standing("other", lag_s=3)]
    assert names(found, favourite="other:27017") == ["other", "hidden", "primary"]
    assert names(found, favourite="primary:27017") == ["hidden", "other", "primary"]


def test_who_is_too_far_behind_is_not_asked() -> None:
    assert names([standing("primary", "primary"), standing("late", hidden=True, lag_s=61)]) == ["primary"]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 200)), min_size=1, max_size=7))
def test_somebody_is_always_asked_and_a_primary_only_last(secondaries: list[tuple[bool, bool, int]]) -> None:
    found = [
        standing(str(number), hidden=hidden, passive=passive, lag_s=lag)
        for number, (hidden, passive, lag) in enumerate(secondaries)
    ]
    asked = names([standing("primary", "primary"), *found])
    assert asked[-1] == "primary"
    assert names(found)  # the newest of them is not behind itself
