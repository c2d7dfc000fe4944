"""What differs between two rule sets: rules, campaigns and segments by their ids, changed ones field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loyalty.infra.http.body import pointer
from loyalty.rules.checks import conditions
from loyalty.rules.expressions import render
from loyalty.rules.model import RuleSet

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: its JSON pointer and its values, None where it is absent."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of rules, campaigns or segments, by their ids. `changed` has only those with changes."""

    added: list[Json]
    removed: list[Json]
    changed: dict[str, list[Change]]


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two rule sets."""

    rules: Changes
    campaigns: Changes
    segments: Changes
    settings: list[Change]


def compare(before: RuleSet, after: RuleSet) -> Difference:
    """What has to be done to `before` to make it `after`. Conditions are compared as trees and shown as texts."""
    old, new = readable(before), readable(after)
    rules, campaigns, segments = (
        _members(old.pop(name, []), new.pop(name, [])) for name in ("rules", "campaigns", "segments")
    )
    return Difference(rules, campaigns, segments, settings=list(_fields(old, new, ())))


def _members(before: Sequence[Json], after: Sequence[Json]) -> Changes:
    old, new = {one["id"]: one for one in before}, {one["id"]: one for one in after}
    changes = {name: list(_fields(old[name], new[name], ())) for name in sorted(old.keys() & new.keys())}
    return Changes(
        added=[new[name] for name in sorted(new.keys() - old.keys())],
        removed=[old[name] for name in sorted(old.keys() - new.keys())],
        changed={name: fields for name, fields in changes.items() if fields},
    )


def _fields(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _fields(before.get(name), after.get(name), (*path, name))
    else:
        yield Change(pointer(path), before, after)


def readable(rule_set: RuleSet) -> Json:
    """The rule set as JSON, with the text of each condition in the place of its tree."""
    document = rule_set.document()
    for place, over, condition in conditions(rule_set):
        *way, last = place.split("/")[1:]
        target: Any = document
        for step in way:
            target = target[int(step)] if isinstance(target, list) else target[step]
        target[last] = render(condition, over)
    return document
