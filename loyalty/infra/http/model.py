"""Base classes of what goes in and out: strict, closed, and described for the API document."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from loyalty.infra.clock import to_milliseconds

T = TypeVar("T")


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-02-01T12:00:00.000Z`."""
    return to_milliseconds(instant).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_YEARS = range(1900, 9999)  # beyond them, another offset may lie outside of what a datetime can hold


def read_instant(value: Any) -> datetime:
    """An RFC 3339 instant with an offset, in UTC, cut to milliseconds. A number, a day or a local time says too little.

    ValueError names the reason. An instant that is a datetime already is taken as it is.
    """
    if isinstance(value, datetime):
        return value
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be an RFC 3339 instant with an offset, such as 2026-02-01T12:00:00Z")
    day, time, fraction, offset = match.groups()
    milliseconds = (fraction or "0")[:3].ljust(3, "0")
    try:
        instant = datetime.fromisoformat(f"{day}T{time}.{milliseconds}{'+00:00' if offset in 'Zz' else offset}")
    except ValueError:
        raise ValueError("names a day or a time that does not exist") from None
    if instant.year not in _YEARS:
        raise ValueError(f"must be in a year from {_YEARS.start} to {_YEARS.stop - 1}")
    return instant.astimezone(timezone.utc)


Timestamp = Annotated[
    AwareDatetime,
    BeforeValidator(read_instant, json_schema_input_type=AwareDatetime),
    PlainSerializer(format_instant, return_type=str),
    Field(examples=["2026-02-01T12:00:00.000Z"]),
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
