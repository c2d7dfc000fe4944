"""Filters: a condition over a member as a filter of MongoDB, for segments. It finds whom the closure accepts.

Documents are those of `members`. Time does not stand still: what depends on today is asked for an instant.
"""

from __future__ import annotations

import re
from calendar import isleap
from datetime import date, datetime
from typing import Any, Final

from loyalty.infra.mongo import Document
from loyalty.programs.calendar import Calendar
from loyalty.rules.conditions import AllOf, AnyOf, Comparison, Condition, Exists, Lines, Recurs, Within, children
from loyalty.rules.facts import find_field
from loyalty.rules.operands import YEARS, Operator, read_operand

_NEVER: Final[Document] = {"$nor": [{}]}
_ORDER: Final[dict[str, str]] = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_FLIPPED: Final[dict[Operator, Operator]] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_BOUNDS: Final[dict[str, tuple[int | None, int | None]]] = {
    "<": (None, 0),
    "<=": (None, 1),
    ">": (1, None),
    ">=": (0, None),
}
"""Which days compare so with a day: offsets of the first one and of the one after the last."""
_FIRST: Final = date(YEARS.start, 1, 1).toordinal()
_LAST: Final = date(YEARS.stop - 1, 12, 31).toordinal() + 1

_STORED: Final[dict[str, str]] = {
    "member.status": "status",
    "member.language": "profile.language",
    "member.birthday": "profile.birthday",
}
_ATTRIBUTES: Final = "member.attributes."

# Values of open maps are of any type. What is none of these is missing, as it is for the closure; MongoDB would
# otherwise look into arrays and take 1.0 for 1.
_SCALAR: Final[Document] = {"$type": ["string", "int", "long", "bool"], "$not": {"$type": "array"}}


def mongo_filter(condition: Condition, *, calendar: Calendar, now: datetime) -> Document:
    """The filter for members of a program with this calendar, as they are at `now`.

    The condition must have passed `check` over a member, or ValueError.
    """
    if isinstance(condition, Comparison | Exists):
        return _comparison(condition, calendar, calendar.day(now))
    if isinstance(condition, Lines | Within | Recurs):
        raise ValueError("A condition over a member looks at its fields only.")
    below = [mongo_filter(each, calendar=calendar, now=now) for _, each in children(condition)]
    if isinstance(condition, AllOf):
        return {"$and": below}
    if isinstance(condition, AnyOf):
        return {"$or": below}
    return {"$nor": below}


def _comparison(condition: Comparison | Exists, calendar: Calendar, today: date) -> Document:
    name, op = condition.field, condition.op
    found = find_field(name, "member")
    if found is None:
        raise ValueError(f"There is no field {name!r} in a condition over a member.")
    operand = read_operand(found.kind, op, condition.value) if isinstance(condition, Comparison) else None
    if name.startswith(_ATTRIBUTES):
        return _over_attribute(name.removeprefix(_ATTRIBUTES), op, operand)
    if name in ("member.joined_on", "member.days_since_joined"):
        return _over_enrolment(name, op, operand, calendar, today)
    if name == "member.is_birthday":
        return _over_flag(op, operand, f"-(?:{'|'.join(_birthdays_of(today))})\\z")
    if name == "member.is_birth_month":
        return _over_flag(op, operand, f"\\A[0-9]{{4}}-{today:%m}-")
    if found.kind == "date":
        return {_STORED[name]: _over_dates(op, operand)}
    return {_STORED[name]: _over_text(op, operand)}


def _over_text(op: Operator, operand: Any) -> Document:
    if op == "exists":
        return {"$ne": None}
    if op == "=":
        return {"$eq": operand}
    if op in ("!=", "not_in"):
        return {"$nin": [*(operand if op == "not_in" else [operand]), None]}
    if op == "in":
        return {"$in": operand}
    if op == "between":
        return {"$gte": operand[0], "$lte": operand[1]}
    if op in _ORDER:
        return {_ORDER[op]: operand}
    # A literal text: its special characters are escaped, also NUL, which cannot stand in a pattern.
    literal = re.escape(operand).replace("\0", "\\x00")
    return {"$regex": {"contains": literal, "starts_with": f"\\A{literal}", "ends_with": f"{literal}\\z"}[op]}


def _over_dates(op: Operator, operand: Any) -> Document:
    """Over a day that is stored as text, which sorts as days do."""
    if op == "between":
        return {"$gte": operand[0].isoformat(), "$lt": operand[1].isoformat()}
    if op == "exists":
        return _over_text(op, None)
    return _over_text(op, [day.isoformat() for day in operand] if isinstance(operand, list) else operand.isoformat())


def _over_attribute(name: str, op: Operator, operand: Any) -> Document:
    if "." in name:  # no attribute is called so, but MongoDB would read it as a path
        return _NEVER
    wanted = {} if op == "exists" else _over_text(op, operand)
    return {f"profile.attributes.{name}": wanted | _SCALAR}


def _over_flag(op: Operator, operand: Any, pattern: str) -> Document:
    """Whether the birthday matches, compared with true or false; without a birthday, neither."""
    if op == "exists":
        return {"profile.birthday": {"$ne": None}}
    if operand == (op == "="):
        return {"profile.birthday": {"$regex": pattern}}
    return {"profile.birthday": {"$ne": None, "$not": {"$regex": pattern}}}


def _birthdays_of(today: date) -> list[str]:
    """The ends of the days of birth that are celebrated today."""
    days = [f"{today:%m-%d}"]
    if days == ["02-28"] and not isleap(today.year):
        days.append("02-29")
    return days


def _over_enrolment(name: str, op: Operator, operand: Any, calendar: Calendar, today: date) -> Document:
    """The day of enrolment, or how many days ago it was: spans of days, and so of instants."""
    there: Document = {"created_at": {"$type": "date"}}
    if op == "exists":
        return there
    operands = operand if op in ("in", "not_in", "between") else [operand]
    if name == "member.days_since_joined":  # longer ago is earlier, and both ends of `between` belong to it
        days, inclusive = [today.toordinal() - each for each in operands], 1
        op = _FLIPPED.get(op, op)
    else:
        days, inclusive = [each.toordinal() for each in operands], 0
    if op == "between":
        spans: list[tuple[int | None, int | None]] = [(min(days), max(days) + inclusive)]
    else:
        first, end = _BOUNDS.get(op, (0, 1))
        spans = [(None if first is None else day + first, None if end is None else day + end) for day in days]
    filters = [{"created_at": _instants(*span, calendar)} for span in spans]
    return there | {"$nor" if op in ("!=", "not_in") else "$or": filters}


def _instants(first: int | None, end: int | None, calendar: Calendar) -> Document:
    """From the first instant of one day up to, but without, that of another; days are ordinals, None is no bound."""
    bounds = {"$gte": first, "$lt": end}
    return {bound: calendar.midnight(_day(day)) for bound, day in bounds.items() if day is not None}


def _day(ordinal: int) -> date:
    """The day, brought into the years of which the calendar knows the midnights: nobody enrolled beyond them."""
    return date.fromordinal(min(max(ordinal, _FIRST), _LAST))
