"""Instants are aware, in UTC, in whole milliseconds: a value read back from BSON equals the value written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import bson
from hypothesis import given
from hypothesis import strategies as st

from loyalty.infra.clock import system_clock, to_milliseconds

OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=OFFSETS)


@given(INSTANTS)
def test_it_is_the_same_instant_less_than_a_millisecond_earlier(instant: datetime) -> None:
    assert timedelta(0) <= instant - to_milliseconds(instant) < timedelta(milliseconds=1)


@given(INSTANTS)
def test_it_survives_the_database(instant: datetime) -> None:
    value = to_milliseconds(instant)
    options = bson.CodecOptions[dict[str, datetime]](tz_aware=True, tzinfo=timezone.utc)
    assert bson.decode(bson.encode({"at": value}), options)["at"] == value
    assert value.tzinfo is timezone.utc


def test_the_clock_tells_the_present() -> None:
    before = to_milliseconds(datetime.now(timezone.utc))
    assert before <= system_clock() <= datetime.now(timezone.utc)
