"""Erasure on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from loyalty.infra.http.model import Body, Out
from loyalty.points.model import EntryOut


class Erasure(Body):
    """The person behind the member is to be forgotten."""

    confirm: Literal["erase"] = Field(description="Says that it is meant: it cannot be undone.", examples=["erase"])


class ErasedOut(Out):
    """What an erasure did."""

    member: str = Field(description="The member, which nobody stands behind any more.", examples=["mem_00000001"])
    entry: EntryOut = Field(description="The last entry of the chain: the points that were forfeited.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")
