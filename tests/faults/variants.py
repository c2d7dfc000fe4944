"""The application as the fault tests run it: with a clock that can be wrong, and in builds that are broken on purpose.

A broken build lacks one thing that the ledger relies on. The checker has to find out each of them; were one to pass,
the checker would be the one that is broken.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from apiflask import APIFlask
from pymongo import MongoClient, ReadPreference
from pymongo.write_concern import WriteConcern

from loyalty.app import create_app
from loyalty.infra import mongo
from loyalty.infra.clock import system_clock
from loyalty.ledger import append
from loyalty.points import service as points

SKEW_FILE = "FAULTS_SKEW_FILE"
"""Names a file with the seconds by which the clock is ahead; no file, no skew."""


def skewable() -> APIFlask:
    """The application as it is, with a clock that the nemesis can put forward or back."""
    file = Path(os.environ[SKEW_FILE])

    def clock() -> datetime:
        seconds = float(file.read_text()) if file.exists() else 0.0
        return system_clock() + timedelta(seconds=seconds)

    return create_app(clock=clock)


def without_keys() -> APIFlask:
    """Broken: nobody looks whether an operation was done before."""

    def nothing(ledger: Any, asked: Mapping[int, Any]) -> dict[int, append.Outcome]:
        return {}

    append.find_done = nothing
    return create_app()


def with_write_concern_one() -> APIFlask:
    """Broken: an operation counts as done when the primary alone has it."""
    mongo._MAJORITY = WriteConcern(w=1, j=False)
    return create_app()


def with_stale_balances() -> APIFlask:
    """Broken: balances come from a secondary, also from one that lags and is not the quickest to answer."""
    mongo.MongoClient = functools.partial(MongoClient, localThresholdMS=10_000)  # type: ignore[attr-defined,assignment]
    read = points.find_with_head

    def stale(db: mongo.Mongo, program: str, text: str) -> Any:
        return read(db.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED), program, text)

    points.find_with_head = stale
    return create_app()
