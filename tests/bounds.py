"""Bounds in seconds, on a machine that others use too.

What takes too long is a `TooSlow`, as what never happens is a `tests.servers.ServerError`. Both can be the machine's
doing, once; `loyalty.ops.suite` lets such a test be measured again. A wrong answer never gets a second chance.
"""

from __future__ import annotations


class TooSlow(AssertionError):
    """Something took longer than it may."""


def assert_within(limit_s: float, took_s: float, what: str = "it") -> None:
    """TooSlow unless `took_s` is less than `limit_s`."""
    if took_s >= limit_s:
        raise TooSlow(f"{what} took {took_s:.2f} s, and may take {limit_s:.2f} s")
