"""How long a request goes on asking a database that is away, and how long it asks one server.

A client is answered within 5 s. A failover takes 1 to 4.5 s, so a request that meets one can still succeed, if it gives
up on the old primary in time (a frozen one never says that it is not the primary any more) and asks again. Whatever is
asked again must be safe to repeat: a timeout leaves open whether the server did it. Reads are; acts on points are,
because their keys stand in the ledger.

Only whoever answers a client is in a hurry. Outside of `answering`, as in jobs and commands, nothing is repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from loyalty.infra.mongo import database_is_away

ANSWER_SECONDS: Final = 4.5
"""From the arrival of a request to its answer; the rest of the 5 s is for the way."""

ATTEMPT_SECONDS: Final = 2.0
"""As long as an election takes to begin: a primary that was silent for longer is most likely not the primary."""

_PAUSE_SECONDS: Final = 0.02
_STEP_SECONDS: Final = 0.5  # the driver looks for a primary in such steps, and ends with a whole one
_WORTH_SECONDS: Final = _STEP_SECONDS + 0.1

T = TypeVar("T")

_answer_by: ContextVar[float | None] = ContextVar("answer_by", default=None)  # monotonic seconds


class TimeUp(Exception):
    """The client has to be answered now; what became of the work is not known."""


@contextmanager
def answering(seconds: float = ANSWER_SECONDS) -> Iterator[None]:
    """Somebody waits for what is done in this context, for so long."""
    token = _answer_by.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _answer_by.reset(token)


def seconds_left() -> float | None:
    """Until the answer is due; None when nobody waits."""
    answer_by = _answer_by.get()
    return None if answer_by is None else answer_by - time.monotonic()


def attempt(seconds: float = ATTEMPT_SECONDS) -> AbstractContextManager[Any]:
    """Bounds all that is asked of the database in this context, the search for a primary included.

    Within it the driver itself repeats what a lost connection has cut off, which is as safe as the first time.
    """
    left = seconds_left()
    return nullcontext() if left is None else pymongo.timeout(max(0.001, min(seconds, left)))


def persistently(act: Callable[[], T]) -> T:
    """`act()`, and again for as long as the database is away and the client can wait."""
    try:
        return act()
    except PyMongoError as error:
        away = error
    while database_is_away(away) and (left := seconds_left() or 0.0) > _WORTH_SECONDS:
        time.sleep(_PAUSE_SECONDS)
        try:
            with pymongo.timeout(left - _STEP_SECONDS):
                return act()
        except PyMongoError as error:
            away = error
    raise away
