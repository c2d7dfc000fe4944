"""Which archive and which slices lead to a moment, against a model that knows every tick of the clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loyalty.backup.manifest import Archive, Catalogue, Chain, ClusterTime
from loyalty.backup.plan import Unreachable, Window, plan, windows

TICKS = 12
moments = st.integers(1, TICKS)
stretches = st.lists(st.tuples(moments, st.integers(1, 4)), max_size=6)


def at(tick: int) -> ClusterTime:
    return ClusterTime(tick, 1)


def state(tick: int) -> Archive:
    return Archive(
        kind="full", id=f"full-{tick}", chain=str(tick), from_=at(tick), to=at(tick), at="", server="", agent=""
    )


def piece(begin: int, end: int) -> Archive:
    return Archive(
        kind="log",
        id=f"{begin}-{end}",
        from_=at(begin),
        to=at(end),
        at="",
        server="",
        agent="",
        entries=1 + end - begin,
    )


def catalogue(states: Sequence[int], slices: Sequence[tuple[int, int]]) -> Catalogue:
    log = sorted((piece(begin, begin + length) for begin, length in slices), key=lambda one: (one.from_, one.to))
    chains = tuple(Chain(str(tick), (state(tick),)) for tick in sorted(set(states)))
    return Catalogue(chains, tuple(log), (), (), ())


def covered(slices: Sequence[tuple[int, int]], after: int, to: int) -> bool:
    """Whether each tick after one, up to another, is in some slice together with the tick before it."""
    return all(
        any(begin <= tick - 1 and tick <= begin + length for begin, length in slices)
        for tick in range(after + 1, to + 1)
    )


@given(st.lists(moments, max_size=4), stretches, moments)
def test_a_plan_is_found_exactly_where_there_is_one_and_joins(
    states: list[int], slices: list[tuple[int, int]], to: int
) -> None:
    possible = [tick for tick in states if tick <= to and covered(slices, tick, to)]
    found = catalogue(states, slices)
    if not possible:
        with pytest.raises(Unreachable):
            plan(found, at(to))
        return
    made = plan(found, at(to))
    assert made.archive.to == at(max(possible))
    reached = made.archive.to
    for one in made.slices:
        assert one.from_ <= reached
        reached = max(reached, one.to)
    assert reached >= at(to)


@given(st.lists(moments, max_size=4), stretches)
def test_windows_are_all_that_a_plan_is_found_for(states: list[int], slices: list[tuple[int, int]]) -> None:
    found = catalogue(states, slices)
    stretched = windows(found)
    for tick in range(1, TICKS + 5):
        inside = any(window.from_ <= at(tick) <= window.to for window in stretched)
        assert inside == any(state <= tick and covered(slices, state, tick) for state in states)
    if stretched:
        assert plan(found, None).to == stretched[-1].to


def test_the_last_second_may_have_gone_on() -> None:
    found = catalogue([1], [(1, 4)])
    assert plan(found, ClusterTime(4, 0xFFFFFFFF)).to.t == 4
    with pytest.raises(Unreachable, match="is not archived to its end yet"):
        plan(found, ClusterTime(5, 0xFFFFFFFF))
    assert Window(at(1), at(5)).last_second.second == 4


def test_what_is_missing_is_named() -> None:
    later = piece(7, 9)
    found = catalogue([1], [(1, 2)])
    found = found._replace(
        slices=(*found.slices, replace(later, predecessor="3-7")), damaged=("A manifest is damaged.",)
    )
    with pytest.raises(Unreachable, match=r"the slice 3-7 of the log\. Can be restored: .* A manifest is damaged\."):
        plan(found, at(8))
