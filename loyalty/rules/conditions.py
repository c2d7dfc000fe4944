"""Conditions: a closed, bounded tree of comparisons, checked at save and compiled once to a closure over Facts.

There is nothing in it to evaluate: no code, no regular expressions, no arithmetic. A missing operand makes a comparison
false, whatever the operator; `exists` tells whether it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from loyalty.infra.http.body import pointer
from loyalty.infra.http.model import Body as ClosedBody
from loyalty.infra.http.model import read_instant
from loyalty.infra.suggestions import suggestion
from loyalty.programs.calendar import Calendar
from loyalty.rules.facts import Facts, Kind, Line, Scope, find_field, full_path, names
from loyalty.rules.facts import Field as FactField
from loyalty.rules.operands import (
    ALLOWED,
    LONGEST_TEXT,
    MOST_VALUES,
    OPERATORS,
    OperandError,
    Operator,
    half_open,
    read_day,
    read_operand,
)
from loyalty.rules.recurrence import LONGEST_RULE, Recurrence, parse_recurrence

DEEPEST: Final = 12
MOST_NODES: Final = 200
MOST_RECURRENCES: Final = 10  # each one may cost a look at ten years of days when it is checked
MOST_DEFECTS: Final = 20  # of one condition; a list longer than this helps nobody
_LARGEST: Final = 2**53 - 1

Predicate = Callable[[Facts], bool]
Path = tuple[int | str, ...]


# -- the tree ---------------------------------------------------------------------------------------------------------


class Body(ClosedBody):
    """A node. `not` and `from` are words of Python, so those fields have another name here than outside."""

    model_config = ConfigDict(serialize_by_alias=True)


def _known_operator(value: Any) -> Any:
    if isinstance(value, str) and value not in OPERATORS:
        raise ValueError(f"There is no operator {value!r}.{suggestion(value, OPERATORS)}")
    return value


def _value(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) > MOST_VALUES:
            raise ValueError(f"must have at most {MOST_VALUES} values")
        for each in value:
            _scalar(each)
    else:
        _scalar(value)
    return value


def _scalar(value: Any) -> None:
    if isinstance(value, float):
        raise ValueError('must not be a fraction; amounts are written as text, such as "50.00"')
    if not isinstance(value, str | int):
        raise ValueError("must be a text, a whole number, true or false, or a list of them")
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"must have at most {LONGEST_TEXT} characters")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must be valid Unicode")
    elif abs(value) > _LARGEST:
        raise ValueError("must be a whole number that JSON readers can hold exactly")


def _day(value: str) -> str:
    read_day(value)
    return value


def _moment(value: str) -> str:
    read_moment(value)
    return value


def _nodes(value: Any) -> Iterator[Any]:
    """The conditions right below one, written or read."""
    if isinstance(value, dict):
        for name in ("all", "any", "none"):
            if isinstance(value.get(name), list):
                yield from value[name]
        yield from (value[name] for name in ("not", "where") if name in value)


def _node(value: Any, _: Any) -> Any:
    """Chooses the form by its key, so that every defect is named where it stands."""
    if isinstance(value, Body):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("wrong_type", "A condition is an object, such as {example}", {"example": _EXAMPLE})
    _require_bounds(value)
    form = next((form for name, form in _FORMS.items() if name in value), None)
    if form is None:
        close = next((suggestion(str(name), _FORMS) for name in value if suggestion(str(name), _FORMS)), "")
        raise PydanticCustomError(
            "missing", "A condition has one of {names}.{close}", {"names": ", ".join(_FORMS), "close": close}
        )
    if form is Comparison and value.get("op") == "exists":
        form = Exists
    return form.model_validate(value)


def _require_bounds(value: Any) -> None:
    """Refuses, before anything is read, what is nested too deeply or has too many parts."""
    count, recurrences, level = 0, 0, [value]
    for _ in range(DEEPEST):
        count += len(level)
        recurrences += sum(isinstance(each, dict) and "recurs" in each for each in level)
        if recurrences > MOST_RECURRENCES:
            text = "A condition has at most {most} recurrences. One may name several days: BYDAY=MO,FR"
            raise PydanticCustomError("too_long", text, {"most": MOST_RECURRENCES})
        level = [below for each in level for below in _nodes(each)]
        if count + len(level) > MOST_NODES:
            text = "A condition has at most {most} parts. Compare with a list of values, with in"
            raise PydanticCustomError("too_long", text, {"most": MOST_NODES})
        if not level:
            return
    raise PydanticCustomError("too_deep", "Conditions are nested at most {most} deep", {"most": DEEPEST})


_EXAMPLE: Final = '{"field": "event.amount", "op": ">=", "value": "50.00"}'

FieldName = Annotated[str, StringConstraints(min_length=1, max_length=150)]
Value = Annotated[
    Any,
    AfterValidator(_value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "integer", "boolean"]},
                {"type": "array", "items": {"type": ["string", "integer", "boolean"]}, "maxItems": MOST_VALUES},
            ]
        }
    ),
]
Several = Field(min_length=1, max_length=MOST_NODES, description="The conditions.")
Quantifier = Literal["any", "all", "none", "cheapest", "most_expensive"]


class AllOf(Body):
    """Every one of them holds."""

    all: list[Condition] = Several


class AnyOf(Body):
    """At least one of them holds."""

    any: list[Condition] = Several


class NoneOf(Body):
    """None of them holds."""

    none: list[Condition] = Several


class Not(Body):
    """It does not hold."""

    negated: Condition = Field(alias="not", description="The condition.")


class Comparison(Body):
    """A field compared with a constant. False when the field is missing."""

    field: FieldName = Field(description="What is compared.", examples=["event.amount"])
    op: Annotated[Operator, BeforeValidator(_known_operator)] = Field(description="How.", examples=[">="])
    value: Value = Field(
        description="With what: amounts, days and times as text; a list for `in` and `not_in`; two values for "
        "`between`, of which days and times leave out the second. A time may run over midnight.",
        examples=["50.00"],
    )


class Exists(Body):
    """The field is there; a set is there when something is in it."""

    field: FieldName = Field(description="What is looked for.", examples=["member.birthday"])
    op: Literal["exists"] = Field(description="`exists`.")


class Lines(Body):
    """How many lines of the purchase match. Without lines only `none` holds."""

    lines: Quantifier = Field(description="Which lines must match; prices a piece decide what is cheapest.")
    where: Condition = Field(description="A condition over one line: `category`, `amount` …")
    at_least: Annotated[int, Field(ge=1, le=500)] = Field(1, description="How many, with `any`.")


class Span(Body):
    """From `start` up to, but without, `end`."""

    start: Annotated[str, AfterValidator(_moment)] = Field(
        description="A day of the program's zone, from its first instant, or an instant with an offset.",
        examples=["2026-12-01"],
    )
    end: Annotated[str, AfterValidator(_moment)] = Field(description="Likewise.", examples=["2027-01-01"])


class Within(Body):
    """It happened in a span of time."""

    within: Span = Field(description="The span.")


class Recurs(Body):
    """It happened on a day that a recurrence names."""

    recurs: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_RULE)] = Field(
        description="An RRULE of RFC 5545, by day.", examples=["FREQ=WEEKLY;BYDAY=MO,FR"]
    )
    start: Annotated[str, AfterValidator(_day)] = Field(
        alias="from", description="The day that it begins with and counts from.", examples=["2026-01-01"]
    )


Condition = Annotated[
    AllOf | AnyOf | NoneOf | Not | Comparison | Exists | Lines | Within | Recurs, WrapValidator(_node)
]
"""A condition of any form."""

_FORMS: Final[dict[str, type[Body]]] = {
    "all": AllOf,
    "any": AnyOf,
    "none": NoneOf,
    "not": Not,
    "field": Comparison,
    "lines": Lines,
    "within": Within,
    "recurs": Recurs,
}

for _form in _FORMS.values():
    _form.model_rebuild()


def read_moment(text: str) -> date | datetime:
    """A day of the program's zone, or an instant. ValueError says how they are written."""
    try:
        return read_instant(text) if "T" in text else read_day(text)
    except ValueError as error:
        raise ValueError(
            f"Give a day such as 2026-12-31, or an instant such as 2026-12-31T18:00:00Z: {error}"
        ) from None


# -- checking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What a condition can name of its program; None leaves unchecked what depends on it."""

    currency: str | None = None
    wallets: Collection[str] | None = None
    segments: Collection[str] | None = None
    tiers: Collection[str] | None = None


def check(condition: Condition, over: Scope = "event", known: Known = Known()) -> list[dict[str, str]]:
    """What is wrong with the condition, as `{pointer, code, detail}`; the pointers begin at it. The first 20 defects.

    What has no defects can be compiled.
    """
    return [
        {"pointer": pointer(path), "code": code, "detail": detail}
        for path, code, detail in islice(_defects(condition, over, known, ()), MOST_DEFECTS)
    ]


def _defects(condition: Any, over: Scope, known: Known, path: Path) -> Iterator[tuple[Path, str, str]]:
    for step, below in children(condition):
        yield from _defects(below, "line" if isinstance(condition, Lines) else over, known, (*path, *step))
    if isinstance(condition, Comparison | Exists):
        yield from _operand_defects(condition, over, known.currency, path)
        yield from _name_defects(condition, known, path)
    elif isinstance(condition, Lines | Within | Recurs) and over != "event":
        form = next(iter(type(condition).model_fields))
        detail = f"A condition over a {over} looks at its fields only: {', '.join(names(over))}."
        yield (*path, form), "misplaced", detail
    elif isinstance(condition, Lines) and condition.at_least > 1 and condition.lines != "any":
        yield (*path, "at_least"), "invalid_value", '"at_least" goes with "any" only.'
    elif isinstance(condition, Within):
        start, end = read_moment(condition.within.start), read_moment(condition.within.end)
        if isinstance(start, datetime) == isinstance(end, datetime) and start >= end:
            yield (*path, "within", "end"), "invalid_value", "The end must be after the start."
    elif isinstance(condition, Recurs):
        try:
            if not parse_recurrence(condition.recurs, read_day(condition.start)).ever():
                yield (*path, "recurs"), "invalid_value", "It names no day in the ten years after its start."
        except ValueError as error:
            yield (*path, "recurs"), "invalid_value", str(error)


def _operand_defects(
    condition: Comparison | Exists, over: Scope, currency: str | None, path: Path
) -> Iterator[tuple[Path, str, str]]:
    found = find_field(condition.field, over)
    if found is None:
        yield (*path, "field"), "unknown_field", unknown_field(condition.field, over)
    elif condition.op not in ALLOWED[found.kind]:
        known = ", ".join(ALLOWED[found.kind])
        detail = f'"{condition.field}" is {_KINDS[found.kind]}, which knows {known}; not "{condition.op}".'
        yield (*path, "op"), "wrong_operator", detail
    elif isinstance(condition, Comparison):
        try:
            read_operand(found.kind, condition.op, condition.value, currency)
        except OperandError as error:
            place = () if error.place is None else (error.place,)
            detail = f'"{condition.field}" is {_KINDS[found.kind]}. {error}'
            yield (*path, "value", *place), "wrong_type", detail


def _name_defects(condition: Comparison | Exists, known: Known, path: Path) -> Iterator[tuple[Path, str, str]]:
    """Wallets, segments and levels that the program does not have."""
    wallet = _COUNTED_WALLET.match(condition.field)
    if wallet is not None and known.wallets is not None and wallet[1] not in known.wallets:
        detail = f"The program has no wallet {wallet[1]!r}.{suggestion(wallet[1], known.wallets)}"
        yield (*path, "field"), "unknown_wallet", detail
    if isinstance(condition, Comparison) and condition.field == "member.segments" and known.segments is not None:
        for place, name in _strangers(condition, known.segments):
            detail = f"There is no segment {name!r} in `segments`.{suggestion(name, known.segments)}"
            yield (*path, "value", *place), "unknown_segment", detail
    if isinstance(condition, Comparison) and condition.field == "member.tier" and known.tiers is not None:
        for place, name in _strangers(condition, known.tiers) if condition.op in _EQUALITIES else ():
            detail = f"The program has no level {name!r}.{suggestion(name, known.tiers)}"
            yield (*path, "value", *place), "unknown_level", detail


def _strangers(condition: Comparison, names: Collection[str]) -> Iterator[tuple[Path, str]]:
    """The texts that a field is compared with and that are none of the names, with their places in the value."""
    several = isinstance(condition.value, list)
    for place, name in enumerate(condition.value if several else [condition.value]):
        if isinstance(name, str) and name not in names:
            yield (place,) if several else (), name


_EQUALITIES: Final = frozenset({"=", "!=", "in", "not_in"})


_COUNTED_WALLET: Final = re.compile(r"counters\.points\.([a-z0-9_]+)\.")

_KINDS: Final[dict[Kind, str]] = {
    "text": "a text",
    "texts": "a set of texts",
    "amount": "an amount of money",
    "integer": "a whole number",
    "boolean": "true or false",
    "date": "a day",
    "time": "a time of the day",
    "weekday": "a day of the week",
    "status": "a status",
    "anything": "of any type",
}


def unknown_field(name: str, over: Scope) -> str:
    """The sentence that refuses a name, with the one that was probably meant."""
    close = suggestion(name, names(over)) or suggestion(full_path(name, over), names(over))
    if over == "event" and find_field(name, "line") is not None:
        close = f' About a line it is asked after "where"; several comparisons stand there in parentheses.{close}'
    if over == "member" and find_field(name) is not None:
        close = " A segment looks at what is known of a person. Ask for this in the condition of the rule."
    return f"There is no field {name!r} in a condition over {_OVER[over]}.{close}"


_OVER: Final[dict[Scope, str]] = {"event": "an event", "line": "one line", "member": "a member"}


def children(condition: Any) -> list[tuple[Path, Any]]:
    """The conditions right below one, each with its path from there."""
    if isinstance(condition, AllOf):
        return [(("all", index), each) for index, each in enumerate(condition.all)]
    if isinstance(condition, AnyOf):
        return [(("any", index), each) for index, each in enumerate(condition.any)]
    if isinstance(condition, NoneOf):
        return [(("none", index), each) for index, each in enumerate(condition.none)]
    if isinstance(condition, Not):
        return [(("not",), condition.negated)]
    if isinstance(condition, Lines):
        return [(("where",), condition.where)]
    return []


def counters_of(condition: Condition) -> set[str]:
    """The counters that it looks at, such as `purchases.month` and `points.stamps.ever`."""
    found: set[str] = set()
    if isinstance(condition, Comparison | Exists) and condition.field.startswith("counters."):
        found.add(condition.field.removeprefix("counters."))
    for _, below in children(condition):
        found |= counters_of(below)
    return found


# -- compiling --------------------------------------------------------------------------------------------------------


def compile_condition(condition: Condition, calendar: Calendar, currency: str) -> Predicate:
    """The condition over an event as a closure. It must have passed `check`, or ValueError.

    `calendar` and `currency` are those of the program; the closure may be shared between threads.
    """
    return _compile(condition, "event", calendar, currency)


def compile_line_condition(condition: Condition, currency: str) -> Callable[[Line], bool]:
    """The condition over one line as a closure. It must have passed `check` over a line, or ValueError."""
    return _compile(condition, "line", None, currency)


def _compile(condition: Any, over: Scope, calendar: Calendar | None, currency: str) -> Callable[[Any], bool]:
    if isinstance(condition, Comparison | Exists):
        found = find_field(condition.field, over)
        if found is None:
            raise ValueError(unknown_field(condition.field, over))
        return _comparison(condition, found, currency)
    if isinstance(condition, Lines):
        where = _compile(condition.where, "line", calendar, currency)
        return _over_lines(condition.lines, where, condition.at_least)
    if isinstance(condition, Within):
        if calendar is None:
            raise ValueError("A condition over a line knows no time.")
        return _within(condition.within, calendar)
    if isinstance(condition, Recurs):
        return _recurs(parse_recurrence(condition.recurs, read_day(condition.start)))
    below = tuple([_compile(each, over, calendar, currency) for _, each in children(condition)])
    if isinstance(condition, AllOf):
        return _all(below)
    if isinstance(condition, AnyOf):
        return _any(below)
    negated = _any(below)  # of several for NoneOf, of one for Not
    return lambda subject: not negated(subject)


def _all(below: tuple[Callable[[Any], bool], ...]) -> Callable[[Any], bool]:
    if len(below) == 1:
        return below[0]
    if len(below) == 2:  # what most rules have, without a loop
        first, second = below
        return lambda subject: first(subject) and second(subject)

    def holds(subject: Any) -> bool:
        for each in below:  # noqa: SIM110 - a generator costs more than the comparisons
            if not each(subject):
                return False
        return True

    return holds


def _any(below: tuple[Callable[[Any], bool], ...]) -> Callable[[Any], bool]:
    if len(below) == 1:
        return below[0]
    if len(below) == 2:
        first, second = below
        return lambda subject: first(subject) or second(subject)

    def holds(subject: Any) -> bool:
        for each in below:  # noqa: SIM110
            if each(subject):
                return True
        return False

    return holds


def _over_lines(quantifier: Quantifier, where: Callable[[Line], bool], at_least: int) -> Predicate:
    def any_line(facts: Facts) -> bool:
        for line in facts.lines:  # noqa: SIM110
            if where(line):
                return True
        return False

    def enough_lines(facts: Facts) -> bool:
        missing = at_least
        for line in facts.lines:
            if where(line):
                missing -= 1
                if not missing:
                    return True
        return False

    def every_line(facts: Facts) -> bool:
        for line in facts.lines:
            if not where(line):
                return False
        return bool(facts.lines)

    if quantifier == "any":
        return any_line if at_least == 1 else enough_lines
    if quantifier == "all":
        return every_line
    if quantifier == "none":
        return lambda facts: not any_line(facts)
    if quantifier == "cheapest":
        return lambda facts: facts.cheapest is not None and where(facts.cheapest)
    return lambda facts: facts.most_expensive is not None and where(facts.most_expensive)


def _within(span: Span, calendar: Calendar) -> Predicate:
    start, end = instant_of(span.start, calendar), instant_of(span.end, calendar)
    return lambda facts: start <= facts.occurred_at < end


def instant_of(text: str, calendar: Calendar) -> datetime:
    """The instant that a moment begins with: a day's first one in the program's zone."""
    moment = read_moment(text)
    return moment if isinstance(moment, datetime) else calendar.midnight(moment)


_MOST_DAYS: Final = 4096


def _recurs(recurrence: Recurrence) -> Predicate:
    known: dict[date, bool] = {}

    def holds(facts: Facts) -> bool:
        day = facts.date
        answer = known.get(day)
        if answer is None:
            if len(known) >= _MOST_DAYS:
                known.clear()
            answer = known[day] = recurrence.includes(day)
        return answer

    return holds


def _comparison(condition: Comparison | Exists, found: FactField, currency: str) -> Callable[[Any], bool]:
    read = found.read
    if isinstance(condition, Exists):
        if found.kind == "texts":
            return lambda subject: bool(read(subject))
        if found.kind == "anything":
            return lambda subject: isinstance(read(subject), str | int)
        return lambda subject: read(subject) is not None
    operand = read_operand(found.kind, condition.op, condition.value, currency)
    if found.kind == "texts":
        return _over_set(read, condition.op, operand)
    if found.kind == "anything":
        return _over_anything(read, condition.op, operand)
    return _over_typed(read, condition.op, operand, leave_out_high=half_open(found.kind))


def _over_set(read: Callable[[Any], frozenset[str]], op: Operator, operand: Any) -> Callable[[Any], bool]:
    if op == "contains":
        return lambda subject: operand in read(subject)
    wanted = frozenset(operand)
    if op == "in":
        return lambda subject: not wanted.isdisjoint(read(subject))
    return lambda subject: wanted.isdisjoint(read(subject))


def _over_typed(
    read: Callable[[Any], Any], op: Operator, operand: Any, *, leave_out_high: bool
) -> Callable[[Any], bool]:
    """Over a field that is of its type or None. `not None` costs less than a look at the type."""
    if op == "=":
        return lambda subject: read(subject) == operand
    if op == "!=":
        return lambda subject: (value := read(subject)) is not None and value != operand
    if op == "<":
        return lambda subject: (value := read(subject)) is not None and value < operand
    if op == "<=":
        return lambda subject: (value := read(subject)) is not None and value <= operand
    if op == ">":
        return lambda subject: (value := read(subject)) is not None and value > operand
    if op == ">=":
        return lambda subject: (value := read(subject)) is not None and value >= operand
    if op == "in":
        members = frozenset(operand)
        return lambda subject: read(subject) in members
    if op == "not_in":
        others = frozenset(operand)
        return lambda subject: (value := read(subject)) is not None and value not in others
    if op == "contains":
        return lambda subject: (value := read(subject)) is not None and operand in value
    if op == "starts_with":
        return lambda subject: (value := read(subject)) is not None and value.startswith(operand)
    if op == "ends_with":
        return lambda subject: (value := read(subject)) is not None and value.endswith(operand)
    low, high = operand
    if not leave_out_high:
        return lambda subject: (value := read(subject)) is not None and low <= value <= high
    if low < high:
        return lambda subject: (value := read(subject)) is not None and low <= value < high
    return lambda subject: (value := read(subject)) is not None and (value >= low or value < high)  # over midnight


def _over_anything(read: Callable[[Any], Any], op: Operator, operand: Any) -> Callable[[Any], bool]:
    """Over an entry of an open map: values of another type are never equal and never in order.

    In Python true is 1; here it is not, as it is not in JSON and MongoDB.
    """
    if op in ("!=", "not_in"):
        others = frozenset((isinstance(each, bool), each) for each in (operand if op == "not_in" else [operand]))
        return lambda subject: (
            isinstance(value := read(subject), str | int) and (isinstance(value, bool), value) not in others
        )
    if op in ("=", "in"):
        members = frozenset((isinstance(each, bool), each) for each in (operand if op == "in" else [operand]))
        return lambda subject: (
            isinstance(value := read(subject), str | int) and (isinstance(value, bool), value) in members
        )
    kind = str if isinstance(operand[0] if op == "between" else operand, str) else int
    compare = _over_typed(lambda value: value, op, operand, leave_out_high=False)
    return lambda subject: isinstance(value := read(subject), kind) and not isinstance(value, bool) and compare(value)
