"""Searching for a history on which engine and model differ: for a while, or through so many examples."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

BLOCK = 50
"""Examples between two looks at the clock."""


def search(machine: type[RuleBasedStateMachine], examples: int, number: int) -> None:
    """Run `examples` histories of the machine that the seed `number` stands for; the shortest failing one is raised."""
    run_state_machine_as_test(
        seed(number)(type(machine.__name__, (machine,), {})),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def search_for(machine: type[RuleBasedStateMachine], seconds: float) -> int:
    """Search with ever new seeds until the time is over; how many examples there were."""
    end = time.monotonic() + seconds
    done = 0
    for number in seeds():
        search(machine, BLOCK, number)
        done += BLOCK
        if time.monotonic() > end:
            break
    return done


def seeds() -> Iterator[int]:
    """Numbers that nobody has seen before."""
    while True:
        yield secrets.randbits(32)
