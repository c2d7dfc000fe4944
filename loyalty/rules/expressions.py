"""The text form of conditions: the same tree for people to read and write, printed in one canonical way.

    event.amount >= 50.00 and any line where category in ("music", "books") and time.weekday in (sat, sun)

The parser is an LALR table without backtracking, so every text costs time in proportion to its length.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Final

from lark import Lark, Token, Tree, UnexpectedInput, UnexpectedToken
from lark.tree import Meta
from pydantic import BeforeValidator, StringConstraints, TypeAdapter, ValidationError

from loyalty.infra.http.body import defects, pointer
from loyalty.infra.suggestions import suggestion
from loyalty.rules.conditions import (
    DEEPEST,
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Exists,
    Lines,
    NoneOf,
    Not,
    Path,
    Recurs,
    Within,
    check,
    unknown_field,
)
from loyalty.rules.facts import Kind, Scope, find_field

LONGEST: Final = 10_000

GRAMMAR: Final = r"""
?start: choice
?choice: sequence ("or" sequence)*
?sequence: part ("and" part)*
?part: "(" choice ")"
     | "not" part                                        -> negation
     | "all" "of" "(" choice ("," choice)* ")"           -> all_of
     | "any" "of" "(" choice ("," choice)* ")"           -> any_of
     | "none" "of" "(" choice ("," choice)* ")"          -> none_of
     | "any" "line" "where" part                         -> any_line
     | "every" "line" "where" part                       -> every_line
     | "no" "line" "where" part                          -> no_line
     | "cheapest" "line" "where" part                    -> cheapest_line
     | "most" "expensive" "line" "where" part            -> most_expensive_line
     | "at" "least" NUMBER ("lines" | "line") "where" part -> at_least
     | "within" moment "to" moment                       -> within
     | "recurs" STRING "from" DATE                       -> recurs
     | NAME COMPARE value                                -> comparison
     | NAME "in" "(" value ("," value)* ")"              -> in_list
     | NAME "not" "in" "(" value ("," value)* ")"        -> not_in_list
     | NAME "between" value "and" value                  -> between
     | NAME "contains" value                             -> contains
     | NAME "starts" "with" value                        -> starts_with
     | NAME "ends" "with" value                          -> ends_with
     | NAME "exists"                                     -> exists
!value: STRING | NUMBER | DATE | TIME | NAME
!moment: DATE | INSTANT

COMPARE: ">=" | "<=" | "!=" | "=" | "<" | ">"
INSTANT.4: /[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2})/
DATE.3: /[0-9]{4}-[0-9]{2}-[0-9]{2}/
TIME.3: /[0-9]{2}:[0-9]{2}/
NUMBER.2: /-?[0-9]+(\.[0-9]+)?/
NAME: /[a-zA-Z][a-zA-Z0-9_.-]*/
STRING: /"(?:[^"\\\x00-\x1f]|\\(?:["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/
%ignore /[ \t\r\n]+/
"""

_NAMED: Final = {
    "COMPARE": "a comparison (=, !=, <, <=, >, >=)",
    "DATE": "a day such as 2026-12-31",
    "INSTANT": "an instant such as 2026-12-31T18:00:00Z",
    "TIME": "a time such as 09:30",
    "NUMBER": "a number",
    "NAME": "a name",
    "STRING": "a text in double quotes",
    "LPAR": '"("',
    "RPAR": '")"',
    "COMMA": '","',
    "$END": "the end",
}
_INSTEAD: Final = {
    "==": "=", "=>": ">=", "=<": "<=", "<>": "!=", "&&": "and", "||": "or", "!": "not", "&": "and", "|": "or", "'": '"',
}  # fmt: skip
_QUANTIFIERS: Final = {
    "any_line": "any",
    "every_line": "all",
    "no_line": "none",
    "cheapest_line": "cheapest",
    "most_expensive_line": "most_expensive",
}
_LONGEST_NUMBER: Final = 25
_SHOWN: Final = 40  # characters of a word that an error repeats

Place = Token | Meta
"""What knows its line and column."""


class ExpressionError(ValueError):
    """The text is not a condition. `line` and `column` count from 1; `detail` says what was expected there."""

    def __init__(self, detail: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(f"Line {line}, column {column}: {detail}")
        self.detail = detail
        self.line = line
        self.column = column


# -- parsing ----------------------------------------------------------------------------------------------------------


def parse(text: str, over: Scope = "event") -> Condition:
    """The condition that the text writes, without defects over `over`. ExpressionError says where it goes wrong."""
    if len(text) > LONGEST:
        raise ExpressionError(f"A condition has at most {LONGEST} characters; this one has {len(text)}.")
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _unexpected(error, text) from None
    reader = _Reader()
    written = reader.read(tree, over, ())
    try:
        condition = _CONDITION.validate_python(written)
    except ValidationError as error:
        raise reader.error(defects(error)) from None
    found = check(condition, over)
    if found:
        raise reader.error(found)
    return condition


_CONDITION: Final[TypeAdapter[Any]] = TypeAdapter(Condition)


def _parsed(over: Scope) -> BeforeValidator:
    text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
    return BeforeValidator(
        lambda value: parse(value, over) if isinstance(value, str) else value,
        json_schema_input_type=text | Condition,
    )


When = Annotated[Condition, _parsed("event")]
"""A condition over an event in a body: as a tree, or as its text."""
Where = Annotated[Condition, _parsed("line")]
"""A condition over one line in a body: as a tree, or as its text."""
OfMember = Annotated[Condition, _parsed("member")]
"""A condition over a member alone in a body: as a tree, or as its text."""


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=False)


class _Reader:
    """From the parser's tree to that of the JSON form, remembering where each part stands."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def read(self, tree: Tree[Token], over: Scope, path: Path) -> dict[str, Any]:
        form = tree.data
        place = self._places[pointer(path)] = tree.meta
        if sum(isinstance(step, str) for step in path) >= DEEPEST:
            raise self._at(place, f"Conditions are nested at most {DEEPEST} deep.")
        if form in ("sequence", "all_of"):
            return {"all": self._list(tree, over, (*path, "all"))}
        if form in ("choice", "any_of"):
            return {"any": self._list(tree, over, (*path, "any"))}
        if form == "none_of":
            return {"none": self._list(tree, over, (*path, "none"))}
        if form == "negation":
            return {"not": self.read(_tree(tree, 0), over, (*path, "not"))}
        if form in _QUANTIFIERS:
            return {"lines": _QUANTIFIERS[form], "where": self.read(_tree(tree, 0), "line", (*path, "where"))}
        if form == "at_least":
            where = self.read(_tree(tree, 1), "line", (*path, "where"))
            return {"lines": "any", "where": where, "at_least": self._number(_token(tree, 0))}
        if form == "within":
            start, end = (_token(_tree(tree, index), 0) for index in (0, 1))
            self._places |= {pointer((*path, "within", "start")): start, pointer((*path, "within", "end")): end}
            return {"within": {"start": str(start), "end": str(end)}}
        if form == "recurs":
            rule, start = _token(tree, 0), _token(tree, 1)
            self._places |= {pointer((*path, "recurs")): rule, pointer((*path, "from")): start}
            return {"recurs": json.loads(rule), "from": str(start)}
        return self._comparison(tree, over, path)

    def error(self, found: list[dict[str, str]]) -> ExpressionError:
        """The first defect, at the place in the text that its pointer leads to."""
        way, detail = found[0]["pointer"], found[0]["detail"]
        while way not in self._places:
            way = way.rpartition("/")[0]
        return self._at(self._places[way], detail)

    def _list(self, tree: Tree[Token], over: Scope, path: Path) -> list[dict[str, Any]]:
        return [self.read(_tree(tree, index), over, (*path, index)) for index in range(len(tree.children))]

    def _comparison(self, tree: Tree[Token], over: Scope, path: Path) -> dict[str, Any]:
        name = _token(tree, 0)
        found = find_field(name, over)
        if found is None:
            raise self._at(name, unknown_field(str(name), over))
        form = str(tree.data)
        if form == "exists":
            return {"field": str(name), "op": "exists"}
        tokens = [_token(each, 0) for each in tree.children if isinstance(each, Tree)]
        values = [self._value(token, found.kind) for token in tokens]
        if form in ("in_list", "not_in_list", "between"):
            self._places |= {pointer((*path, "value", index)): token for index, token in enumerate(tokens)}
            return {"field": str(name), "op": form.removesuffix("_list"), "value": values}
        self._places[pointer((*path, "value"))] = tokens[0]
        operator = str(_token(tree, 1)) if form == "comparison" else form
        return {"field": str(name), "op": operator, "value": values[0]}

    def _value(self, token: Token, kind: Kind) -> str | int | bool:
        if token.type == "STRING":
            return str(json.loads(token))
        if token.type == "NUMBER":
            return str(token) if kind == "amount" else self._number(token)
        if token.type == "NAME" and kind in ("boolean", "anything") and token in ("true", "false"):
            return bool(token == "true")  # noqa: S105
        if kind in ("text", "texts", "anything"):
            raise self._at(token, f'A text stands in double quotes: "{token[:_SHOWN]}".')
        return str(token)

    def _number(self, token: Token) -> int:
        if "." in token or len(token) > _LONGEST_NUMBER:
            raise self._at(token, f"{token[:_SHOWN]} is not a whole number that can be compared.")
        return int(token)

    @staticmethod
    def _at(place: Place, detail: str) -> ExpressionError:
        return ExpressionError(detail, line=place.line or 1, column=place.column or 1)


def _tree(tree: Tree[Token], index: int) -> Tree[Token]:
    child = tree.children[index]
    assert isinstance(child, Tree)  # noqa: S101 - the grammar says so
    return child


def _token(tree: Tree[Token], index: int) -> Token:
    child = tree.children[index]
    assert isinstance(child, Token)  # noqa: S101
    return child


def _unexpected(error: UnexpectedInput, text: str) -> ExpressionError:
    position: Any = error.pos_in_stream  # lark declares it as None
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        return ExpressionError(f"Expected {_expected(error)}, but the text ends.", line=line, column=column)
    found = str(error.token)[:_SHOWN] if isinstance(error, UnexpectedToken) else text[position]
    spellings = (text[max(0, position - 1) : position + 1], text[position : position + 2], found)
    wrong = next((part for part in spellings if part in _INSTEAD), None)
    detail = f"Expected {_expected(error)}, but found {_mark(found)}."
    if wrong is not None:
        detail += f" Write {_mark(_INSTEAD[wrong])} instead of {_mark(wrong)}."
    elif found == '"':
        detail += " A text ends with another double quote, on its line."
    elif isinstance(error, UnexpectedToken):
        detail += suggestion(found, [name.lower() for name in error.expected if name not in _NAMED])
    return ExpressionError(detail, line=error.line, column=error.column)


def _expected(error: UnexpectedInput) -> str:
    if not isinstance(error, UnexpectedToken):
        return "a word, a number, a comparison or a text in double quotes"
    names = sorted(error.accepts, key=lambda name: (name not in _NAMED, name))
    phrases = [_NAMED.get(name) or _mark(name.lower()) for name in names]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"


def _mark(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


# -- printing ---------------------------------------------------------------------------------------------------------


def render(condition: Condition, over: Scope = "event") -> str:
    """The one text of the condition: `parse` makes an equal tree of it, as long as it is not longer than LONGEST."""
    if isinstance(condition, AllOf) and len(condition.all) > 1:
        return " and ".join(_enclosed(each, over, AllOf, AnyOf) for each in condition.all)
    if isinstance(condition, AnyOf) and len(condition.any) > 1:
        return " or ".join(_enclosed(each, over, AnyOf) for each in condition.any)
    if isinstance(condition, AllOf):
        return f"all of ({render(condition.all[0], over)})"
    if isinstance(condition, AnyOf):
        return f"any of ({render(condition.any[0], over)})"
    if isinstance(condition, NoneOf):
        return f"none of ({', '.join(render(each, over) for each in condition.none)})"
    if isinstance(condition, Not):
        return f"not {_enclosed(condition.negated, over, AllOf, AnyOf)}"
    if isinstance(condition, Lines):
        return f"{_quantifier(condition)} where {_enclosed(condition.where, 'line', AllOf, AnyOf)}"
    if isinstance(condition, Within):
        return f"within {condition.within.start} to {condition.within.end}"
    if isinstance(condition, Recurs):
        return f"recurs {_quoted(condition.recurs)} from {condition.start}"
    if isinstance(condition, Exists):
        return f"{condition.field} exists"
    return _comparison(condition, over)


def _enclosed(condition: Condition, over: Scope, *forms: type[AllOf] | type[AnyOf]) -> str:
    """In parentheses if it is a chain of one of these forms."""
    text = render(condition, over)
    chain = condition.all if isinstance(condition, AllOf) else condition.any if isinstance(condition, AnyOf) else []
    return f"({text})" if len(chain) > 1 and isinstance(condition, forms) else text


def _quantifier(condition: Lines) -> str:
    if condition.lines == "any":
        return "any line" if condition.at_least == 1 else f"at least {condition.at_least} lines"
    return {
        "all": "every line",
        "none": "no line",
        "cheapest": "cheapest line",
        "most_expensive": "most expensive line",
    }[condition.lines]


def _comparison(condition: Comparison, over: Scope) -> str:
    found = find_field(condition.field, over)
    kind: Kind = "anything" if found is None else found.kind
    operator = condition.op.replace("_", " ")
    if condition.op == "between":
        low, high = condition.value
        return f"{condition.field} between {_literal(low, kind)} and {_literal(high, kind)}"
    if isinstance(condition.value, list):
        return f"{condition.field} {operator} ({', '.join(_literal(each, kind) for each in condition.value)})"
    return f"{condition.field} {operator} {_literal(condition.value, kind)}"


def _literal(value: str | int | bool, kind: Kind) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or kind not in ("text", "texts", "anything"):
        return str(value)
    return _quoted(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
