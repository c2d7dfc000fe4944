"""How a replica set gets to other members: by steps that keep a majority and change one vote each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.by_path import load

replica_set = load("roles/mongodb/module_utils/replica_set_plan.py")
Member = replica_set.Member


def said(current: list[Any], wanted: list[Any], **known: Any) -> list[str]:
    return [str(step) for step in replica_set.plan(current, wanted, **{"primary": "a", **known})]


def test_a_set_that_is_as_wanted_has_no_plan() -> None:
    assert said([Member("a"), Member("b", priority=0)], [Member("a"), Member("b", priority=0)]) == []


def test_a_set_of_one_grows_by_members_that_have_caught_up() -> None:
    assert said([Member("a")], [Member("a"), Member("b"), Member("c", priority=0)]) == [
        "add b without a vote, and wait until it has caught up",
        "add c without a vote, and wait until it has caught up",
        "give b its vote when it has caught up",
        "give c its vote when it has caught up",
        "set the priority of b from 0 to 1",
    ]


def test_members_that_are_put_off_neither_join_nor_change() -> None:
    wanted = [Member("a", priority=2), Member("b"), Member("c")]
    assert replica_set.put_off(wanted, ["b", "c"], [Member("a")]) == [Member("a", priority=2)]
    joining = Member("b", votes=0, priority=0)
    assert replica_set.put_off(wanted, ["b", "c"], [Member("a"), joining]) == [Member("a", priority=2), joining]
    assert said([Member("a"), joining], replica_set.put_off(wanted, ["b", "c"], [Member("a"), joining])) == [
        "set the priority of a from 1 to 2"
    ]
    assert replica_set.put_off(wanted, [], [Member("a")]) == wanted


def test_the_only_member_hands_over_to_its_successor() -> None:
    assert said([Member("a")], [Member("b")]) == [
        "add b without a vote, and wait until it has caught up",
        "give b its vote when it has caught up",
        "set the priority of b from 0 to 1",
        "let a step down, and wait until another member leads",
        "set the priority of a from 1 to 0",
        "take the vote of a",
        "remove a",
    ]


def test_a_secondary_leaves_without_an_election() -> None:
    assert said([Member("a"), Member("b"), Member("c")], [Member("a"), Member("c")]) == [
        "set the priority of b from 1 to 0",
        "take the vote of b",
        "remove b",
    ]


def test_the_vote_of_a_dead_member_goes_first() -> None:
    steps = said([Member("a"), Member("b"), Member("c")], [Member("a"), Member("c"), Member("d")], dead=["b"])
    assert steps[1:3] == ["take the vote of b, which does not answer", "give d its vote when it has caught up"]
    assert steps[-1] == "remove b"


def test_a_member_is_hidden_in_one_step() -> None:
    assert said([Member("a"), Member("b"), Member("c")], [Member("a"), Member("b", 1, 0, True), Member("c")]) == [
        "set the priority of b from 1 to 0, hidden from clients"
    ]


def told(current: list[Any], wanted: list[Any], *, primary: str) -> list[str]:
    steps = replica_set.plan(current, wanted, primary=primary)
    text: str = replica_set.told(current, steps, primary=primary, lag_seconds=10)
    return text.splitlines()


def test_an_operator_reads_the_steps_in_order_with_what_each_waits_for() -> None:
    assert told([Member("a")], [Member("b"), Member("c", priority=0)], primary="a") == [
        "a leads. Each step waits until a majority of the votes is with members that answer and lag by at most 10 s:",
        "1. add b without a vote, and wait until it has caught up",
        "2. add c without a vote, and wait until it has caught up",
        "3. give b its vote when it has caught up (votes: 1, then 2)",
        "4. give c its vote when it has caught up (votes: 2, then 3)",
        "5. set the priority of b from 0 to 1",
        "6. let a step down, and wait until another member leads",
        "7. set the priority of a from 1 to 0",
        "8. take the vote of a (votes: 3, then 2)",
        "9. remove a",
        "Members then:",
        "- b, priority 1",
        "- c, never leads",
    ]


def test_an_operator_is_told_when_there_is_nothing_to_do() -> None:
    assert told([Member("a"), Member("b", 0, 0, True)], [Member("a"), Member("b", 0, 0, True)], primary="a") == [
        "The replica set has the members that the inventory names: there is nothing to do.",
        "Members:",
        "- a, priority 1",
        "- b, never leads, no vote, hidden",
    ]


@pytest.mark.parametrize(
    ("current", "wanted", "dead", "because"),
    [
        ([Member("a"), Member("b")], [Member("a")], ["b"], "Bring a majority up"),
        ([Member("a"), Member("b"), Member("c")], [Member("a"), Member("b")], ["b"], "take them out first"),
        ([Member("a"), Member("b", 0, 0), Member("c")], [Member(host) for host in "abc"], ["b"], "Bring them up"),
        ([Member("a")], [Member("a", priority=0)], [], "all have priority 0"),
        ([Member("a")], [Member("a"), Member("b", 1, 1, True)], [], "must be 0"),
        ([Member("a")], [Member(host) for host in "abcdefgh"], [], "at most 7"),
    ],
)
def test_what_cannot_be_done_safely_is_refused(
    current: list[Any], wanted: list[Any], dead: list[str], because: str
) -> None:
    with pytest.raises(replica_set.Impossible, match=because):
        said(current, wanted, dead=dead)


HOSTS = "abcdefghijklmnop"


@st.composite
def sets(draw: st.DrawFn) -> dict[str, Any]:
    """A valid replica set: at most 7 votes, somebody can lead, who is hidden or has no vote cannot."""
    members: dict[str, Any] = {}
    for host in draw(st.permutations(HOSTS))[: draw(st.integers(1, 8))]:
        votes = int(len(members) < replica_set.MOST_VOTES and draw(st.integers(0, 3)) > 0)
        hidden = draw(st.integers(0, 4)) == 0
        priority = 0.0 if hidden or not votes else draw(st.sampled_from([0.0, 1.0, 1.0, 2.0]))
        members[host] = Member(host, votes, priority, hidden)
    if not any(member.priority for member in members.values()):
        host = draw(st.sampled_from(sorted(members)))
        members[host] = Member(host)
    if sum(member.votes for member in members.values()) > replica_set.MOST_VOTES:
        return {host: member for host, member in members.items() if member.votes}
    return members


def majority_answers(members: dict[str, Any], dead: set[str]) -> bool:
    votes = sum(member.votes for member in members.values())
    return sum(member.votes for host, member in members.items() if host not in dead) >= votes // 2 + 1


def can_lead(members: dict[str, Any], dead: set[str]) -> set[str]:
    return {host for host, member in members.items() if member.priority and host not in dead}


@given(current=sets(), wanted=sets(), data=st.data())
def test_any_set_gets_to_any_other_by_safe_steps(
    current: dict[str, Any], wanted: dict[str, Any], data: st.DataObject
) -> None:
    """Members that die may be few enough for a majority before and after, and stay out of what is to get a vote."""
    dead: set[str] = set()
    for host in data.draw(st.permutations(sorted(current)), label="who may be dead"):
        more = {*dead, host}
        gains = host in wanted and wanted[host].votes > current[host].votes
        if not gains and all(majority_answers(each, more) and can_lead(each, more) for each in (current, wanted)):
            dead = more
    leader = data.draw(st.sampled_from(sorted(can_lead(current, dead))), label="primary")

    state = dict(current)
    steps = replica_set.plan(current.values(), wanted.values(), primary=leader, dead=dead)
    for step in steps:
        after = replica_set.after_step(state, step)
        touched = [host for host in {*state, *after} if state.get(host) != after.get(host)]
        assert len(touched) == (0 if step.do == "step down" else 1)
        for host in touched:
            old, new = state.get(host, Member(host, 0, 0)), after.get(host, Member(host, 0, 0))
            assert abs(old.votes - new.votes) <= 1
            assert not (step.do in ("add", "remove") and (old.votes or new.votes))
            if host == leader:
                assert new.priority, "the primary cannot make itself unelectable"
            if old.votes < new.votes:
                assert host not in dead
        if step.do == "step down":
            assert step.member.host == leader
            assert can_lead(after, dead) - {leader}
            # Whoever may follow stays able to lead: it is not made to step down again.
            assert can_lead(after, dead) - {leader} <= {host for host, member in wanted.items() if member.priority}
            leader = ""
        for member in after.values():
            assert not (member.priority and (member.hidden or not member.votes))
        assert sum(member.votes for member in after.values()) <= replica_set.MOST_VOTES
        assert majority_answers(after, dead)
        assert can_lead(after, dead)
        state = after
    assert state == wanted
    assert sum(step.do == "step down" for step in steps) <= 1
