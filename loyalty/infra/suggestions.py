"""What was probably meant by a misspelt name: the closest one, and the fields that a body knows at a place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

Schema = dict[str, Any]

_LONGEST: Final = 500


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """` Perhaps you mean "…".`, or nothing when no known text is close."""
    close = get_close_matches(wrong[:_LONGEST], list(known), n=1, cutoff=0.6)
    return f' Perhaps you mean "{close[0]}".' if close else ""


def known_fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The fields that bodies of `model` may have in the object at `path`, as a ValidationError gives it.

    In such a path stand also the branches of unions; those that nothing is named after are passed over.
    """
    whole = _schema(model)
    found = list(_alternatives(whole, whole))
    for part in path:
        below = [each for schema in found for each in _below(schema, part, whole)]
        found = below or found
    return sorted({name for schema in found for name in schema.get("properties", ())})


@lru_cache(maxsize=100)
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _below(schema: Schema, part: int | str, whole: Schema) -> Iterator[Schema]:
    """The schemas of the part of a value for which `schema` is one."""
    if isinstance(part, int):
        inner = schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part)
        if inner is None and part in (mapping := schema.get("mapping", {})):
            inner = {"$ref": mapping[part]}
        if inner is None:  # an open map
            inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
    if isinstance(inner, dict):
        yield from _alternatives(inner, whole)


def _alternatives(schema: Schema, whole: Schema) -> Iterator[Schema]:
    """What the schema stands for: each of its branches; of those that a field tells apart, also which is which."""
    if "$ref" in schema:
        yield from _alternatives(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
        return
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if "discriminator" in schema:
        yield {"mapping": schema["discriminator"]["mapping"]}
    elif branches:
        for branch in branches:
            yield from _alternatives(branch, whole)
    else:
        yield schema
