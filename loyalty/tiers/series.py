"""A short series of numbers as bytes: what a tier counts, in the state of every member and so in every entry.

A series is two columns, keys in ascending order and the values beside them. Days are numbered from 1 January 1970 and
take two bytes, values four or, where one is large, eight; instants are milliseconds since then and take eight.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from struct import calcsize, pack, unpack_from
from typing import Final

_FIRST_DAY: Final = date(1970, 1, 1).toordinal()
_LAST_DAY_NUMBER: Final = (1 << 16) - 1
_SMALL: Final = 1 << 32
_SIZES: Final = {code: calcsize(f"<{code}") for code in "HIQq"}

Columns = tuple[list[int], list[int]]


def day_number(day: date) -> int:
    """Days since 1 January 1970, below zero for those before it."""
    return day.toordinal() - _FIRST_DAY


def day_of(number: int) -> date:
    """The day that `day_number` numbered."""
    return date.fromordinal(number + _FIRST_DAY)


def pack_days(days: Sequence[int], values: Sequence[int]) -> bytes:
    """Day numbers (from 0 to 65,535, which is in 2149) and values of at least 0."""
    width = "I" if max(values, default=0) < _SMALL else "Q"
    return _packed("H", days, width, values)


def pack_instants(instants: Sequence[int], values: Sequence[int]) -> bytes:
    """Milliseconds since 1970 and values, which may be below 0."""
    return _packed("q", instants, "q", values)


def unpack(packed: bytes | None) -> Columns:
    """What `pack_days` or `pack_instants` packed; nothing for None."""
    if not packed:
        return [], []
    codes = packed[:2].decode()
    count = (len(packed) - 2) // (_SIZES[codes[0]] + _SIZES[codes[1]])
    columns = unpack_from(f"<{count}{codes[0]}{count}{codes[1]}", packed, 2)
    return list(columns[:count]), list(columns[count:])


def add(keys: list[int], values: list[int], key: int, amount: int) -> None:
    """Add `amount` at `key`, in place. A value never falls below zero, and at zero it leaves the series."""
    key = min(max(key, 0), _LAST_DAY_NUMBER)
    place = bisect_left(keys, key)
    if place < len(keys) and keys[place] == key:
        values[place] = max(values[place] + amount, 0)
        if values[place] == 0:
            del keys[place], values[place]
    elif amount > 0:
        keys.insert(place, key)
        values.insert(place, amount)


def _packed(key_code: str, keys: Sequence[int], value_code: str, values: Sequence[int]) -> bytes:
    count = len(keys)
    return (key_code + value_code).encode() + pack(f"<{count}{key_code}{count}{value_code}", *keys, *values)
