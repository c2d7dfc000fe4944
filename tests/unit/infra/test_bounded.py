"""Calls that may hang: nobody waits for them longer than allowed, and what came too late is undone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from loyalty.infra.bounded import Bounded, Hanging
from tests.servers import wait_until

SOON_S = 1.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading from it hangs in the kernel until something is written."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_results_and_errors_are_those_of_the_act() -> None:
    bounded = Bounded("the pipe")
    assert bounded.call(lambda: 1 + 1, seconds=SOON_S) == 2
    with pytest.raises(FileNotFoundError) as caught:
        bounded.call(lambda: os.open("/nowhere", os.O_RDONLY), seconds=SOON_S)
    assert caught.value.filename == "/nowhere"


def test_while_one_hangs_nobody_else_waits(pipe: tuple[int, int]) -> None:
    bounded, undone = Bounded("the pipe"), threading.Event()
    began = time.monotonic()
    with pytest.raises(Hanging, match="did not answer within"):
        bounded.call(lambda: os.read(pipe[0], 1), seconds=0.1, undo=lambda _: undone.set())
    threads = threading.active_count()
    for _ in range(50):
        with pytest.raises(Hanging, match="still does not answer"):
            bounded.call(lambda: os.read(pipe[0], 1), seconds=10)
    assert time.monotonic() - began < SOON_S
    assert threading.active_count() == threads
    os.write(pipe[1], b"x")
    assert undone.wait(10), "what came too late was not undone"

    def works() -> bool:
        try:
            return bounded.call(lambda: True, seconds=SOON_S)
        except Hanging:
            return False

    wait_until(works, timeout_s=5, failure=lambda: "it is still believed to hang")


def test_clearing_away_waits_for_nothing_that_hangs(pipe: tuple[int, int]) -> None:
    bounded, tidied = Bounded("the pipe"), threading.Event()
    bounded.tidy(lambda: os.open("/nowhere", os.O_RDONLY), seconds=SOON_S)
    with pytest.raises(Hanging):
        bounded.call(lambda: os.read(pipe[0], 1), seconds=0.1)

    def tidy() -> None:
        os.read(pipe[0], 1)
        tidied.set()

    began = time.monotonic()
    bounded.tidy(tidy, seconds=10)
    assert time.monotonic() - began < SOON_S
    os.write(pipe[1], b"xx")
    assert tidied.wait(10), "it was not done when it could be"
