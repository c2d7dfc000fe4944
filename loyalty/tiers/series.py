"""A short series of numbers as bytes: what a tier counts, in the state of every member and so in every entry.

A series is two columns, keys in ascending order and the values beside them. Days are numbered from 1 January 1970 and
take two bytes, values four or, where one is large, eight; instants are milliseconds since then and take eight. The two
letters before them say how wide the columns are, as the module `array` calls it; the order of bytes is little-endian.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import MutableSequence, Sequence
from datetime import date
from typing import Final

_FIRST_DAY: Final = date(1970, 1, 1).toordinal()
_LAST_DAY_NUMBER: Final = (1 << 16) - 1
_SMALL: Final = 1 << 32
_SIZES: Final = {code: array(code).itemsize for code in "HIQq"}

Column = MutableSequence[int]


def day_number(day: date) -> int:
    """Days since 1 January 1970, below zero for those before it."""
    return day.toordinal() - _FIRST_DAY


def day_of(number: int) -> date:
    """The day that `day_number` numbered."""
    return date.fromordinal(number + _FIRST_DAY)


def pack_days(days: Sequence[int], values: Sequence[int]) -> bytes:
    """Day numbers (from 0 to 65,535, which is in 2149) and values of at least 0."""
    if isinstance(values, array) and values.typecode in "IQ":
        return _packed("H", days, values.typecode, values)
    return _packed("H", days, "I" if max(values, default=0) < _SMALL else "Q", values)


def pack_instants(instants: Sequence[int], values: Sequence[int]) -> bytes:
    """Milliseconds since 1970 and values, which may be below 0."""
    return _packed("q", instants, "q", values)


def unpack(packed: bytes | None) -> tuple[Column, Column]:
    """What `pack_days` or `pack_instants` packed; nothing for None."""
    if not packed:
        return [], []
    keys, values = chr(packed[0]), chr(packed[1])
    end = 2 + (len(packed) - 2) // (_SIZES[keys] + _SIZES[values]) * _SIZES[keys]
    return _column(keys, packed[2:end]), _column(values, packed[end:])


def add(keys: Column, values: Column, key: int, amount: int) -> Column:
    """Add `amount` at `key`, in place; gives the values, which are in a wider column where they need one.

    A value never falls below zero, and at zero it leaves the series.
    """
    key = min(max(key, 0), _LAST_DAY_NUMBER)
    place = bisect_left(keys, key)
    known = place < len(keys) and keys[place] == key
    value = max(values[place] + amount if known else amount, 0)
    if value >= _SMALL and isinstance(values, array) and values.typecode == "I":
        values = array("Q", values)
    if known and value:
        values[place] = value
    elif known:
        del keys[place], values[place]
    elif value:
        keys.insert(place, key)
        values.insert(place, value)
    return values


def _packed(key_code: str, keys: Sequence[int], value_code: str, values: Sequence[int]) -> bytes:
    return (key_code + value_code).encode() + _bytes(key_code, keys) + _bytes(value_code, values)


def _bytes(code: str, numbers: Sequence[int]) -> bytes:
    column = numbers if isinstance(numbers, array) and numbers.typecode == code else array(code, numbers)
    if sys.byteorder == "big":
        column = array(code, column)
        column.byteswap()
    return column.tobytes()


def _column(code: str, packed: bytes) -> Column:
    column = array(code)
    column.frombytes(packed)
    if sys.byteorder == "big":
        column.byteswap()
    return column
