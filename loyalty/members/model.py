"""What a member is, as a document and on the wire."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from loyalty.infra.http.model import Body, Out, Page, PageQuery, Timestamp, unset
from loyalty.infra.ids import member_id
from loyalty.infra.problems import Problem

Status = Literal["active", "earning_blocked", "spending_blocked", "blocked"]
IdentityType = Literal["card", "phone", "email", "custom"]
IDENTITY_TYPES: tuple[IdentityType, ...] = get_args(IdentityType)
EXTERNAL = "ext"

MOST_HANDLES = 50
MOST_ATTRIBUTES = 50
LONGEST_VALUE = 200


def normal_text(value: str) -> str:
    """The value as it is compared: NFC, nothing invisible. ValueError says what is wrong with it."""
    if value.isascii() and value.isprintable() and value[:1].strip() and value[-1:].strip():
        return value  # nearly every one, and quickly
    if value.isascii() and value.isprintable() and value and value[0] != " " != value[-1]:
        return value
    text = unicodedata.normalize("NFC", value)
    if text != text.strip() or not text:
        raise ValueError("must not be empty, and must not begin or end with a space")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("must not contain control characters")
    return text


_EMAIL = re.compile(r"[^\s@,;<>()\[\]\\\"]{1,64}@[^\s@.,;<>()]+(\.[^\s@.,;<>()]+)+")


def normal_email(value: str) -> str:
    """An e-mail address in lower case: people never mean two mailboxes by their capitals."""
    text = normal_text(value).lower()
    if not _EMAIL.fullmatch(text):
        raise ValueError("is not an e-mail address")
    return text


_PHONE_PUNCTUATION = re.compile(r"[\s().\-/\u00a0\u2010-\u2015]")


def normal_phone(value: str) -> str:
    """A phone number as E.164: `+49 (30) 1234-567` is `+49301234567`."""
    text = _PHONE_PUNCTUATION.sub("", value)
    if text.startswith("00"):
        text = "+" + text[2:]
    if not re.fullmatch(r"\+[1-9]\d{5,14}", text, re.ASCII):
        raise ValueError("is not an international phone number such as +49 30 1234567")
    return text


_NORMAL = {
    "card": normal_text,
    "custom": normal_text,
    EXTERNAL: normal_text,
    "email": normal_email,
    "phone": normal_phone,
}


def handle(kind: str, value: str) -> str:
    """What a member is found by: `ext:00001`, `card:4711`. ValueError when the value is none of its kind."""
    normal = _NORMAL[kind](value)
    if len(normal) > LONGEST_VALUE:
        raise ValueError(f"must have at most {LONGEST_VALUE} characters")
    return f"{kind}:{normal}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the rest of the application uses it.

    `absorbed` are the numbers of those who were merged into it, `merged_into` is the number of whom it was merged into;
    `found` holds what a caller's own stages added.
    """

    number: int
    program: str
    handles: tuple[str, ...]
    status: str
    profile: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    version: int
    absorbed: tuple[int, ...] = ()
    merged_into: int | None = None
    found: dict[str, Any] = field(default_factory=dict)
    frozen: dict[str, Any] | None = None
    """Since when (`at`), by which entry (`entry`) and why (`why`) nothing can be spent; None for nearly everybody."""
    erased_at: datetime | None = None
    """When the person was forgotten; None for nearly everybody."""

    def stands_for(self, number: int) -> bool:
        """Whether the member has that number, or one who has was merged into it."""
        return number == self.number or number in self.absorbed

    @property
    def id(self) -> str:
        """The public id."""
        return member_id(self.number)

    @property
    def may_earn(self) -> bool:
        """Whether events add points."""
        return self.status in ("active", "spending_blocked")

    @property
    def may_spend(self) -> bool:
        """Whether points can be redeemed."""
        return self.status in ("active", "earning_blocked")

    @staticmethod
    def from_document(document: dict[str, Any]) -> Member:
        """The member that a document of `members` holds; fields that are not the member's go to `found`."""
        return Member(
            number=document.pop("_id"),
            program=document.pop("program"),
            handles=tuple(document.pop("handles")),
            status=document.pop("status"),
            profile=document.pop("profile"),
            created_at=document.pop("created_at"),
            updated_at=document.pop("updated_at"),
            version=document.pop("version"),
            absorbed=tuple(document.pop("absorbed", ())),
            merged_into=document.pop("merged_into", None),
            frozen=document.pop("frozen", None),
            erased_at=document.pop("erased", {}).get("at"),
            found=document,
        )


Value = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_VALUE), AfterValidator(normal_text)]
MemberPath = Annotated[
    str,
    Field(
        description="A member: the id (`mem_…`), `ext:<external id>`, or an identity such as `card:<number>`.",
        examples=["ext:00001"],
    ),
]
IdentityPath = Annotated[str, Field(description="An identity as `<type>:<value>`.", examples=["card:4711-0815"])]
ExternalId = Annotated[Value, Field(examples=["00001"])]


class Identity(Body):
    """Something a member is recognised by. Unique in the program."""

    type: IdentityType = Field(description="What it is.", examples=["card"])
    value: Value = Field(
        description="The card number, phone number (international), e-mail address, or text of your own.",
        examples=["4711-0815"],
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> Identity:
        handle(self.type, self.value)
        return self

    @property
    def handle(self) -> str:
        """The form that is stored and compared."""
        return handle(self.type, self.value)


PersonName = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(normal_text)]
Email = Annotated[str, StringConstraints(max_length=LONGEST_VALUE), AfterValidator(normal_email)]
Phone = Annotated[str, StringConstraints(max_length=40), AfterValidator(normal_phone)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]
AttributeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
AttributeText = Annotated[str, StringConstraints(max_length=500)]
AttributeNumber = Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
Attribute = bool | AttributeNumber | AttributeText


class Profile(Body):
    """What is known about a person. Everything is optional."""

    given_name: PersonName | None = Field(None, description="Given name.", examples=["Ada"])
    family_name: PersonName | None = Field(None, description="Family name.", examples=["Lovelace"])
    email: Email | None = Field(None, description="E-mail address, kept in lower case.", examples=["ada@example.org"])
    phone: Phone | None = Field(
        None, description="International phone number, kept as E.164.", examples=["+49301234567"]
    )
    birthday: date | None = Field(None, description="Date of birth.", examples=["1990-12-10"])
    language: Language | None = Field(None, description="BCP 47 language tag.", examples=["en"])
    attributes: dict[AttributeName, Attribute] = Field(
        default_factory=dict,
        max_length=MOST_ATTRIBUTES,
        description="Your own facts: texts, whole numbers, true or false.",
    )


class ProfileChange(Body):
    """Fields to change; null removes one, and absent fields stay. Attributes are changed one by one."""

    given_name: PersonName | None = Field(None, description="Given name.")
    family_name: PersonName | None = Field(None, description="Family name.")
    email: Email | None = Field(None, description="E-mail address.")
    phone: Phone | None = Field(None, description="International phone number.")
    birthday: date | None = Field(None, description="Date of birth.")
    language: Language | None = Field(None, description="BCP 47 language tag.")
    attributes: dict[AttributeName, Attribute | None] = Field(
        default_factory=dict, max_length=MOST_ATTRIBUTES, description="Attributes to set; null removes one."
    )


class NewMember(Body):
    """A member to enrol. Give an external id, an identity, or both."""

    external_id: ExternalId | None = Field(
        None, description="Your own id of the customer; unique in the program, for ever."
    )
    identities: list[Identity] = Field(
        default_factory=list, max_length=MOST_HANDLES - 1, description="What the member is recognised by."
    )
    profile: Profile = Field(default_factory=lambda: Profile.model_validate({}), description="The person.")
    status: Status = Field("active", description="What the member may do: earn and spend, one of them, or neither.")

    @model_validator(mode="after")
    def _has_a_handle(self) -> NewMember:
        handles = self.handles
        if not handles:
            raise ValueError("give an external_id or at least one identity")
        if len(set(handles)) != len(handles):
            raise ValueError("names an identity twice")
        return self

    @property
    def handles(self) -> list[str]:
        """Everything the member is found by."""
        external = [] if self.external_id is None else [handle(EXTERNAL, self.external_id)]
        return external + [identity.handle for identity in self.identities]


class MemberReference(Body):
    """Names a member in a body, by exactly one of these."""

    id: Annotated[str, StringConstraints(pattern=r"^mem_[0-9a-hjkmnp-tv-z]{8}$")] | None = Field(
        None, description="The member's id.", examples=["mem_00000042"]
    )
    external_id: ExternalId | None = Field(
        None, description="Your own id of the customer; unique in the program, for ever."
    )
    card: Value | None = Field(None, description="A card number.", examples=["4711-0815"])
    phone: Value | None = Field(None, description="An international phone number.", examples=["+49301234567"])
    email: Value | None = Field(None, description="An e-mail address.", examples=["ada@example.org"])
    custom: Value | None = Field(None, description="An identity of your own kind.")

    @model_validator(mode="after")
    def _names_one(self) -> MemberReference:
        if len(self.model_fields_set) != 1 or not self.reference():
            raise ValueError("name the member by exactly one of id, external_id, card, phone, email and custom")
        return self

    def reference(self) -> str:
        """The reference in normal form, as a path would have it."""
        if self.id is not None:
            return self.id
        if self.external_id is not None:
            return handle(EXTERNAL, self.external_id)
        for kind in IDENTITY_TYPES:
            value = getattr(self, kind)
            if value is not None:
                return handle(kind, value)
        return ""


class MemberChange(Body):
    """What to change; fields that are absent stay."""

    profile: ProfileChange = unset("Fields of the profile to change.")
    status: Status = unset("What the member may do.")


class IdentityOut(Out):
    """Something a member is recognised by."""

    type: IdentityType = Field(description="What it is.")
    value: str = Field(description="Its value in normal form.")


class ProfileOut(Out):
    """What is known about a person."""

    given_name: str | None = Field(None, description="Given name.")
    family_name: str | None = Field(None, description="Family name.")
    email: str | None = Field(None, description="E-mail address.")
    phone: str | None = Field(None, description="Phone number.")
    birthday: date | None = Field(None, description="Date of birth.")
    language: str | None = Field(None, description="BCP 47 language tag.")
    attributes: dict[str, bool | int | str] = Field(default_factory=dict, description="Your own facts.")


class FrozenOut(Out):
    """Why nothing can be spent: an entry of the member does not verify. Points are still earned."""

    at: Timestamp = Field(description="Since when.")
    entry: str = Field(description="The entry that does not verify.", examples=["ent_0000000g00001"])
    why: str = Field(description="What is wrong with it.", examples=["its content was changed"])


class Unfreezing(Body):
    """Why the member may spend again."""

    reason: Annotated[Value, Field(description="What was found out; kept with the violation.")] = Field(
        examples=["Restored from the backup of yesterday."]
    )


class MemberOut(Out):
    """A member."""

    id: str = Field(description="The member's id.", examples=["mem_00000042"])
    external_id: str | None = Field(description="Your own id of the customer.", examples=["00001"])
    identities: list[IdentityOut] = Field(description="What the member is recognised by.")
    status: Status = Field(description="What the member may do.")
    profile: ProfileOut = Field(description="The person.")
    frozen: FrozenOut | None = Field(None, description="Set while nothing can be spent, whatever the status.")
    erased_at: Timestamp | None = Field(None, description="When the person was forgotten; null for all others.")
    created_at: Timestamp = Field(description="When the member was enrolled.")
    updated_at: Timestamp = Field(description="When the member last changed.")
    version: int = Field(description="Grows with every change; the ETag carries it.")

    @staticmethod
    def of(member: Member) -> MemberOut:
        """The wire form of a member."""
        split = [] if member.erased_at else [found.split(":", 1) for found in member.handles]
        return MemberOut.model_validate(
            {
                "id": member.id,
                "external_id": next((value for kind, value in split if kind == EXTERNAL), None),
                "identities": [{"type": kind, "value": value} for kind, value in split if kind != EXTERNAL],
                "status": member.status,
                "profile": member.profile,
                "frozen": member.frozen,
                "erased_at": member.erased_at,
                "created_at": member.created_at,
                "updated_at": member.updated_at,
                "version": member.version,
            }
        )


class MemberQuery(PageQuery):
    """Which members to list."""

    status: Status | None = Field(None, description="Only members of this status.")
    query: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_VALUE,
        description="Beginning of an external id or identity; `card:47` looks among cards only.",
    )


class MemberPage(Page[MemberOut]):
    """One page of members, in the order of their ids."""


class IdentityTaken(Problem):
    """Another member of the program has this external id or identity; `handle` names it."""

    code = "identity_taken"
    status = 409
    title = "Another member has this identity"


class MemberErased(Problem):
    """The person was forgotten, for good. If they come back, enrol them again with POST /v1/members."""

    code = "member_erased"
    status = 409
    title = "The member was erased"


class LastIdentity(Problem):
    """A member must be recognised by something. Add another identity first."""

    code = "last_identity"
    status = 409
    title = "It is the only identity of the member"


class TooManyIdentities(Problem):
    """A member has at most 50 identities, the external id included."""

    code = "too_many_identities"
    status = 409
    title = "The member has too many identities"


class SpendingFrozen(Problem):
    """An entry of the member does not verify, so nothing is spent until an operator has looked at it.

    Points are still earned. `entry` names the entry; `POST /v1/members/{member}/unfreeze` ends it."""

    code = "spending_frozen"
    status = 409
    title = "The member's points are frozen"
