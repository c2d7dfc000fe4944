"""Segments on the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loyalty.infra.http.model import Out

SegmentPath = Annotated[str, Field(description="The id of a segment of the rules in force.", examples=["newcomers"])]


class SegmentOut(Out):
    """A segment of the rules in force, and how many members are in it."""

    id: str = Field(description="Its id.", examples=["newcomers"])
    name: str | None = Field(description="What people call it.")
    condition: str = Field(
        description="What its members have in common, as a text.", examples=["member.days_since_joined < 30"]
    )
    members: int = Field(description="How many members are in it at this moment.", examples=[42])


class SegmentsOut(Out):
    """The segments of the rules in force."""

    rules_version: int | None = Field(description="The version of the rules that has them; null before the first.")
    data: list[SegmentOut] = Field(description="By their ids.")
