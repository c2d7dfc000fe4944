"""Group commit: who waits together is answered together, each with its own result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from loyalty.infra.group_commit import GroupCommit, _Slot
from loyalty.infra.patience import TimeUp, answering


class Gate:
    """A process that holds its first round until it is told to go on, and keeps what each round had."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.rounds: list[list[int]] = []

    def process(self, items: Sequence[int]) -> list[int]:
        self.rounds.append(list(items))
        if len(self.rounds) == 1:
            self.entered.set()
            assert self.go_on.wait(10)
        return [item * item for item in items]


def test_a_lone_caller_waits_for_nobody() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda items: [item + 1 for item in items])
    assert [group.submit(number) for number in range(3)] == [1, 2, 3]


def test_those_who_come_meanwhile_share_the_next_round() -> None:
    gate = Gate()
    group: GroupCommit[int, int] = GroupCommit(gate.process, most=4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(group.submit, 1)
        assert gate.entered.wait(10)
        others = [pool.submit(group.submit, number) for number in range(2, 8)]
        while len(group._queue) < len(others):
            threading.Event().wait(0.001)
        gate.go_on.set()
        assert first.result(10) == 1
        assert [other.result(10) for other in others] == [4, 9, 16, 25, 36, 49]
    assert [len(items) for items in gate.rounds] == [1, 4, 2]


def test_a_failure_reaches_everybody_of_its_round_and_nobody_else() -> None:
    def process(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ConnectionError("gone")
        return list(items)

    group: GroupCommit[int, int] = GroupCommit(process)
    with pytest.raises(ConnectionError, match="gone"):
        group.submit(13)
    assert group.submit(14) == 14


def test_a_crowd_gets_every_result_exactly_once() -> None:
    seen: list[int] = []

    def process(items: Sequence[int]) -> list[int]:
        seen.extend(items)
        return [-item for item in items]

    group: GroupCommit[int, int] = GroupCommit(process, most=16)
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(group.submit, range(2000)))
    assert results == [-number for number in range(2000)]
    assert sorted(seen) == list(range(2000))


def test_who_cannot_wait_any_longer_leaves_and_the_others_are_answered() -> None:
    """Also when it was his turn to lead: the next one does."""
    gate = Gate()
    group: GroupCommit[int, int] = GroupCommit(gate.process, most=1)

    def in_a_hurry(number: int) -> int:
        with answering(0.2):
            return group.submit(number)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.submit, 1)
        assert gate.entered.wait(10)
        hasty = pool.submit(in_a_hurry, 2)
        while not group._queue:
            threading.Event().wait(0.001)
        patient = [pool.submit(group.submit, number) for number in (3, 4)]
        with pytest.raises(TimeUp):
            hasty.result(10)
        gate.go_on.set()
        assert [first.result(10), *(each.result(10) for each in patient)] == [1, 9, 16]
    assert 2 not in [item for items in gate.rounds for item in items]
    assert group.submit(5) == 25


def test_a_lead_that_comes_too_late_is_passed_on() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda items: [item + 1 for item in items])
    late, next_one = _Slot[int, int](1), _Slot[int, int](2)
    group._queue, group._busy, late.leads = [late, next_one], True, True
    group._leave(late)
    assert group._queue == [next_one]
    assert next_one.leads
    assert next_one.wake.is_set()
    group._leave(next_one)
    assert group.submit(3) == 4, "nobody leads"
