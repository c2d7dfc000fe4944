"""Base classes of what goes in and out: strict, closed, and described for the API document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

from loyalty.infra.clock import to_milliseconds

T = TypeVar("T")


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-02-01T12:00:00.000Z`."""
    return to_milliseconds(instant).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


Timestamp = Annotated[
    AwareDatetime, PlainSerializer(format_instant, return_type=str), Field(examples=["2026-02-01T12:00:00.000Z"])
]
"""An instant with an offset on the way in, RFC 3339 UTC with milliseconds on the way out."""


class Body(BaseModel):
    """A request body: unknown fields and values of another type are refused, never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def unset(description: str | None = None) -> Any:
    """The default of a field in a change: absent means "leave it", which is not the same as null.

    Dump such a body with `exclude_unset=True`."""
    if description is None:  # that of the type
        return Field(default=None, json_schema_extra=_without_default)
    return Field(default=None, description=description, json_schema_extra=_without_default)


class Query(BaseModel):
    """The query string of a request. Text is converted; unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Out(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    """The parameters of a list."""

    limit: int = Field(50, ge=1, le=500, description="How many items a page has at most.")
    cursor: str | None = Field(None, max_length=1024, description="`next_cursor` of the page before.")


class Page(Out, Generic[T]):
    """One page of a list."""

    data: list[T] = Field(description="The items, in the order of the list.")
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last one.")
