"""Public identifiers: opaque strings, ordered by time, safe in a URL and easy to read aloud.

Crockford's base 32 (https://www.crockford.com/base32.html) has no I, L, O or U. Numbers that the database assigns
(members, entries) are written in it; everything else is a ULID (https://github.com/ulid/spec) behind a prefix.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from functools import lru_cache

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}

MEMBER_DIGITS = 8  # 40 bits: as many members as an entry's _id has room for
ENTRY_DIGITS = 13  # 64 bits


def encode(number: int, digits: int) -> str:
    """`number` in base 32, padded to `digits` characters so that text order is number order."""
    pairs = []
    for _ in range(digits // 2):
        pairs.append(_PAIRS[number & 1023])
        number >>= 10
    if digits & 1:
        pairs.append(_ALPHABET[number & 31])
        number >>= 5
    if number:
        raise ValueError("the number does not fit")
    pairs.reverse()
    return "".join(pairs)


def decode(text: str) -> int:
    """The number that `encode` wrote; ValueError for any other text."""
    number = 0
    for character in text:
        try:
            number = number << 5 | _VALUE[character]
        except KeyError:
            raise ValueError(f"{character!r} is not a base 32 digit") from None
    return number


def member_id(number: int) -> str:
    """The public id of a member, from its number."""
    return "mem_" + encode(number, MEMBER_DIGITS)


def member_number(text: str) -> int | None:
    """The number behind a public member id, or None if the text is not one."""
    return _number(text, "mem_", MEMBER_DIGITS)


def entry_id(number: int) -> str:
    """The public id of a ledger entry, from its `_id`."""
    # A chain's entries have all but the last digits in common, and whoever walks along it asks for each.
    return _entry_beginning(number >> 20) + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]


@lru_cache(maxsize=1024)
def _entry_beginning(number: int) -> str:
    return "ent_" + encode(number, ENTRY_DIGITS - 4)


def entry_number(text: str) -> int | None:
    """The `_id` behind a public entry id, or None if the text is not one."""
    number = _number(text, "ent_", ENTRY_DIGITS)
    return number if number is not None and number < 1 << 63 else None


def _number(text: str, prefix: str, digits: int) -> int | None:
    if not text.startswith(prefix) or len(text) != len(prefix) + digits:
        return None
    try:
        return decode(text[len(prefix) :])
    except ValueError:
        return None


def new_id(prefix: str, now: datetime) -> str:
    """A fresh time-ordered id such as `rew_01j…`: 48 bits of milliseconds, 80 bits of randomness."""
    milliseconds = int(now.timestamp() * 1000)
    return f"{prefix}_{encode(milliseconds, 10)}{encode(secrets.randbits(80), 16)}"
