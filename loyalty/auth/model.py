"""What an API key is, as a document and on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from loyalty.infra.http.model import Body, Out, Timestamp

Scope = Literal[
    "activations:write",
    "adjustments:approve",
    "adjustments:read",
    "adjustments:write",
    "backtests:write",
    "configuration:read",
    "configuration:write",
    "events:write",
    "files:read",
    "files:write",
    "holds:write",
    "jobs:read",
    "keys:write",
    "ledger:read",
    "ledger:verify",
    "members:erase",
    "members:merge",
    "members:read",
    "members:unfreeze",
    "members:write",
    "programs:read",
    "programs:write",
    "redemptions:write",
    "rewards:read",
    "rewards:write",
    "rules:publish",
    "rules:read",
    "rules:write",
    "tiers:lock",
    "tiers:publish",
    "tiers:read",
    "transfers:write",
]
ALL_SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: str
    program: str
    mode: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    successor: str | None

    def is_valid_at(self, now: datetime) -> bool:
        """Whether the key opens anything at that instant."""
        return (self.expires_at is None or now < self.expires_at) and (self.revoked_at is None or now < self.revoked_at)

    @staticmethod
    def from_document(document: dict[str, Any]) -> ApiKey:
        """The key that a document of `api_keys` holds."""
        return ApiKey(
            id=document["_id"],
            program=document["program"],
            mode=document["mode"],
            name=document["name"],
            scopes=tuple(document["scopes"]),
            created_at=document["created_at"],
            expires_at=document["expires_at"],
            revoked_at=document["revoked_at"],
            successor=document.get("successor"),
        )


def _unique(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) != len(scopes):
        raise ValueError("names a scope twice")
    return scopes


KeyName = Annotated[str, Field(min_length=1, max_length=200, description="What the key is for.", examples=["till 3"])]
Scopes = Annotated[
    list[Scope],
    AfterValidator(_unique),
    Field(min_length=1, max_length=len(ALL_SCOPES), description="What the key may do."),
]


class NewKey(Body):
    """A key to create. It cannot have a scope that the creating key lacks."""

    name: KeyName
    scopes: Scopes
    expires_at: Timestamp | None = Field(None, description="When it stops working; null means never.")


class Rotation(Body):
    """How to replace a key."""

    overlap_seconds: int = Field(
        86_400, ge=0, le=90 * 86_400, description="How long the old key keeps working beside its successor."
    )


class KeyOut(Out):
    """An API key, without its secret."""

    id: str = Field(description="The key's id.", examples=["key_01kav7g1c0v9x2m4n6p8q0r2s4"])
    program: str = Field(description="The program that the key belongs to.")
    mode: str = Field(description="live or sandbox.")
    name: str = Field(description="What the key is for.")
    scopes: list[str] = Field(description="What the key may do.")
    created_at: Timestamp = Field(description="When it was created.")
    expires_at: Timestamp | None = Field(description="When it stops working; null means never.")
    revoked_at: Timestamp | None = Field(description="When it was revoked; null means it was not.")
    successor: str | None = Field(description="The key that replaces it, if it was rotated.")

    @staticmethod
    def of(key: ApiKey) -> KeyOut:
        """The wire form of a key."""
        return KeyOut.model_validate(key, from_attributes=True)


class NewKeyOut(KeyOut):
    """A key that was just created, with its secret."""

    secret: str | None = Field(
        description="Send it as `Authorization: Bearer <secret>`. Shown once; null in an answer that is repeated."
    )

    @staticmethod
    def of(key: ApiKey, secret: str | None = None) -> NewKeyOut:
        """The wire form of a new key."""
        return NewKeyOut(**KeyOut.of(key).model_dump(), secret=secret)
