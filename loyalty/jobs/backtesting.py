"""Back-tests that were asked for over the API: one at a time, in a process of its own at the server's leisure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog
from pymongo.errors import PyMongoError

from loyalty.backtests import service
from loyalty.infra.mongo import Document
from loyalty.jobs.lease import LeaseLost
from loyalty.jobs.model import Work

_PAUSE_SECONDS: Final = 2.0
_PROCESSES: Final = 2
"""Requests come first. `loyalty backtest` takes all processors."""

log = structlog.get_logger(__name__)


def run_backtests(work: Work, beat: Callable[[float | None, int], None]) -> None:
    """Do what is asked for until the turn is over (LeaseLost). One that was cut off goes on where it was."""
    pause = threading.Event()
    while True:
        beat(None, 0)
        wanted = service.next_pending(work.db)
        if wanted is None:
            pause.wait(_PAUSE_SECONDS)
        else:
            _run(work, wanted, beat)
            beat(None, 1)


def _run(work: Work, wanted: Document, beat: Callable[[float | None, int], None]) -> None:
    """The work goes on in a thread, so that this one can beat however long a part of it takes."""
    over = threading.Event()
    failures: list[Exception] = []

    def check() -> None:
        if over.is_set():
            raise LeaseLost("the back-test is not ours any more")

    def complete() -> None:
        uri = work.settings.mongo_uri.get_secret_value()
        try:
            service.complete(work.db, wanted, uri=uri, processes=_PROCESSES, clock=work.clock, check=check)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=complete, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            beat(None, 0)
            thread.join(0.5)
    finally:
        over.set()
    if failures:
        if isinstance(failures[0], PyMongoError | LeaseLost):  # it goes on when the database is back
            raise failures[0]
        log.error("the back-test failed", backtest=wanted["_id"], exc_info=failures[0])
        service.fail(work.db, wanted, failures[0], clock=work.clock)
