"""What differs between two configurations, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()
"""In place of a value that only the other configuration has."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_NAMES: Final = ("id", "name")


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs. `path` is readable: `/rules/rules/[base]/points`; a value may be `ABSENT`."""

    path: str
    before: Any
    after: Any


def differences(before: Any, after: Any, path: str = "") -> Iterator[Difference]:
    """The differences, in the order of `before`, then what only `after` has.

    Lists of things that have an id or a name are compared by it, so that a new rule in the middle is one difference and
    not one for each rule behind it. That their order changed is one difference as well.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *[name for name in after if name not in before]]:
            yield from _pair(before.get(name, ABSENT), after.get(name, ABSENT), f"{path}/{name}")
        return
    if isinstance(before, list) and isinstance(after, list) and (key := _key(before, after)):
        olds, news = ({item[key]: item for item in items} for items in (before, after))
        for name in [*olds, *[name for name in news if name not in olds]]:
            yield from _pair(olds.get(name, ABSENT), news.get(name, ABSENT), f"{path}/[{name}]")
        order = [[name for name in items if name in olds and name in news] for items in (olds, news)]
        if order[0] != order[1]:
            yield Difference(f"{path}/order", order[0], order[1])
        return
    if orjson.dumps(before, option=_SORTED) != orjson.dumps(after, option=_SORTED):  # Python takes 1 for true
        yield Difference(path or "/", before, after)


def _pair(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if before is ABSENT or after is ABSENT:
        yield Difference(path, before, after)
    else:
        yield from differences(before, after, path)


def _key(before: Sequence[Any], after: Sequence[Any]) -> str | None:
    """The field by which the items of both lists are known, if each has its own."""
    for key in _NAMES:
        if all(
            all(isinstance(item, Mapping) and key in item for item in items)
            and len({item[key] for item in items}) == len(items)
            for items in (before, after)
        ):
            return key
    return None
