"""How a replica set gets from the members that it has to the members that it shall have, one vote at a time.

Pure: nothing here talks to a server. `plan` orders the steps so that after each of them a majority of the votes is
with members that answer, one of these can lead, and no step changes more than one vote. Whoever carries them out waits
before each for a healthy majority, and after an `add` until the new member has caught up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

MOST_VOTES = 7


class Impossible(Exception):
    """There is no safe way there; the message says why and what to do."""


@dataclass(frozen=True)
class Member:
    """A member as the configuration names it. Without a vote, or hidden, it cannot lead: its priority is 0."""

    host: str
    votes: int = 1
    priority: float = 1.0
    hidden: bool = False


@dataclass(frozen=True)
class Step:
    """One change of the configuration (`add`, `change`, `remove`), or `step down` of the primary `member`.

    For `change`, `member` is what it shall be afterwards.
    """

    do: str
    member: Member
    says: str

    def __str__(self) -> str:
        return self.says


def plan(
    current: Iterable[Member], wanted: Iterable[Member], *, primary: str, dead: Collection[str] = ()
) -> list[Step]:
    """The steps from `current` to `wanted`; empty where nothing is to be done.

    `primary` leads now, and `dead` are the members of `current` that do not answer. New members are taken to be alive.
    Raises Impossible.
    """
    state = {member.host: member for member in current}
    goal = {member.host: member for member in wanted}
    _refuse(goal)
    leader = primary
    if not _is_safe(state.values(), dead):
        raise Impossible(
            f"Of {_votes(state.values())} votes, too few are with members that answer ({' '.join(dead)} do not): no "
            "change could be committed. Bring a majority up first: journalctl -u mongod on each."
        )
    steps = []
    for host, member in goal.items():
        if host not in state:
            new = Member(host, votes=0, priority=0, hidden=member.hidden)
            steps.append(Step("add", new, f"add {host} without a vote, and wait until it has caught up"))
            state[host] = new
    while state != goal:
        for step in _candidates(state, goal, leader, dead):
            after = after_step(state, step)
            if _is_safe(after.values(), dead, except_for=step.member.host if step.do == "step down" else ""):
                break
        else:
            raise Impossible(
                "There is no order of single steps in which a majority of the votes stays with members that answer"
                + (f" ({' '.join(dead)} do not). Bring them up, or take them out first." if dead else ".")
            )
        steps.append(step)
        state = after
        if step.do == "step down":
            leader = ""
    return steps


def put_off(wanted: Iterable[Member], postponed: Collection[str], current: Iterable[Member]) -> list[Member]:
    """What is wanted for now: members that are `postponed` stay as they are, and outside where they are outside."""
    now = {member.host: member for member in wanted if member.host not in postponed}
    return [*now.values(), *(member for member in current if member.host in postponed)]


def after_step(state: dict[str, Member], step: Step) -> dict[str, Member]:
    """The members after `step`."""
    if step.do == "step down":
        return state
    if step.do == "remove":
        return {host: member for host, member in state.items() if host != step.member.host}
    return {**state, step.member.host: step.member}


def told(current: Iterable[Member], steps: Iterable[Step], *, primary: str, lag_seconds: int) -> str:
    """The steps as their operator reads them: in order, each with what it waits for and what it does to the votes."""
    state = {member.host: member for member in current}
    lines = []
    for number, step in enumerate(steps, 1):
        after = after_step(state, step)
        votes, then = _votes(state.values()), _votes(after.values())
        lines.append(f"{number}. {step}" + (f" (votes: {votes}, then {then})" if votes != then else ""))
        state = after
    if not lines:
        head = "The replica set has the members that the inventory names: there is nothing to do."
    else:
        head = (
            f"{primary} leads. Each step waits until a majority of the votes is with members that answer and lag by at "
            f"most {lag_seconds} s:"
        )
    return "\n".join([head, *lines, "Members then:" if lines else "Members:", *map(_described, state.values())])


def _described(member: Member) -> str:
    part = f"priority {member.priority:g}" if member.priority else "never leads"
    return f"- {member.host}, {part}" + ("" if member.votes else ", no vote") + (", hidden" if member.hidden else "")


def _refuse(goal: dict[str, Member]) -> None:
    for member in goal.values():
        if member.priority and (member.hidden or not member.votes):
            raise Impossible(f"{member.host} is hidden or has no vote: its priority must be 0.")
    if not any(member.priority for member in goal.values()):
        raise Impossible("No member could lead: all have priority 0. Leave mongodb_priority out for one.")
    if _votes(goal.values()) > MOST_VOTES:
        raise Impossible(f"{_votes(goal.values())} members with a vote: a replica set has at most {MOST_VOTES}.")


def _candidates(
    state: dict[str, Member], goal: dict[str, Member], leader: str, dead: Collection[str]
) -> Iterator[Step]:
    """What may be done next, the best first. The old primary steps down last, so that it does so once."""
    unvoted = [m for m in state.values() if m.votes and not (m.host in goal and goal[m.host].votes)]
    for member in unvoted:
        if member.host in dead:
            # It counts in no majority that can be reached: the sooner its vote goes, the safer is the rest.
            yield _change(member, f"take the vote of {member.host}, which does not answer", votes=0, priority=0.0)
    if _votes(state.values()) < MOST_VOTES:
        for host, wanted in goal.items():
            if wanted.votes and not state[host].votes and host not in dead:
                yield _change(state[host], f"give {host} its vote when it has caught up", votes=1)
    staying = [(member, goal[member.host]) for member in state.values() if member.host in goal]
    for member, wanted in staying:
        if member.votes == wanted.votes and wanted.priority and _standing(member) != _standing(wanted):
            yield _stand(member, wanted)
    lowered = [(member, replace(member, priority=0.0)) for member in unvoted]
    lowered += [(member, wanted) for member, wanted in staying if wanted.votes and not wanted.priority]
    for member, wanted in lowered:
        if member.host != leader and member.votes and _standing(member) != _standing(wanted):
            yield _stand(member, wanted)
    for member, _ in lowered:
        if member.host == leader:
            yield Step("step down", member, f"let {leader} step down, and wait until another member leads")
    for member in unvoted:
        if not member.priority:
            yield _change(member, f"take the vote of {member.host}", votes=0)
    for member, wanted in staying:
        if not member.votes and not wanted.votes and _standing(member) != _standing(wanted):
            yield _stand(member, wanted)
    for member in state.values():
        if member.host not in goal and not member.votes:
            yield Step("remove", member, f"remove {member.host}")


def _change(member: Member, says: str, *, votes: int, priority: float | None = None) -> Step:
    after = replace(member, votes=votes, priority=member.priority if priority is None else priority)
    return Step("change", after, says)


def _stand(member: Member, wanted: Member) -> Step:
    """Let `member` stand for election as `wanted` does; its vote stays as it is."""
    says = f"set the priority of {member.host} from {member.priority:g} to {wanted.priority:g}"
    if member.hidden != wanted.hidden:
        says += ", hidden from clients" if wanted.hidden else ", seen by clients"
    return Step("change", replace(member, priority=wanted.priority, hidden=wanted.hidden), says)


def _standing(member: Member) -> tuple[float, bool]:
    return (member.priority, member.hidden)


def _votes(members: Iterable[Member]) -> int:
    return sum(member.votes for member in members)


def _is_safe(members: Collection[Member], dead: Collection[str], *, except_for: str = "") -> bool:
    """Whether a majority of the votes is with members that answer, and one of them can lead (not `except_for`)."""
    alive: Sequence[Member] = [member for member in members if member.host not in dead]
    return _votes(alive) > _votes(members) // 2 and any(m.priority for m in alive if m.host != except_for)
