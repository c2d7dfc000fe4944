"""What is asked again while the database is away, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, NetworkTimeout, OperationFailure, PyMongoError

from loyalty.infra.mongo import database_is_away
from loyalty.infra.patience import answering, attempt, persistently, seconds_left


def failing(times: int, error: PyMongoError) -> tuple[Callable[[], int], list[float | None]]:
    """An act that fails so often before it succeeds, and the seconds that were left each time."""
    asked: list[float | None] = []

    def act() -> int:
        asked.append(seconds_left())
        if len(asked) <= times:
            raise error
        return len(asked)

    return act, asked


def test_whoever_waits_gets_it_when_the_database_is_back() -> None:
    act, _ = failing(3, AutoReconnect("gone"))
    with answering():
        assert persistently(act) == 4


def test_nobody_waits_longer_than_the_client() -> None:
    act, asked = failing(10_000, NetworkTimeout("silent"))
    began = time.monotonic()
    with answering(0.8), pytest.raises(NetworkTimeout):
        persistently(act)
    assert time.monotonic() - began < 0.8
    assert len(asked) > 1


def test_without_a_client_nothing_is_repeated() -> None:
    act, asked = failing(1, AutoReconnect("gone"))
    with pytest.raises(AutoReconnect):
        persistently(act)
    assert asked == [None]
    with attempt():
        assert seconds_left() is None


def test_what_is_wrong_is_not_repeated() -> None:
    act, asked = failing(1, OperationFailure("not authorized", 13))
    with answering(), pytest.raises(OperationFailure):
        persistently(act)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("details", "away"),
    [
        ({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}, True),
        ({"writeErrors": [{"code": 11602}], "writeConcernErrors": []}, True),
        ({"writeErrors": [{"code": 11000}], "writeConcernErrors": []}, False),
    ],
)
def test_a_batch_that_a_failover_cut_off_is_not_a_defect(details: dict[str, object], away: bool) -> None:
    assert database_is_away(BulkWriteError(details)) is away
