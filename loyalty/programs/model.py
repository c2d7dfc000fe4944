"""What a program is, as a document and on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field

from loyalty.infra import money
from loyalty.infra.http.model import Body, Out, Timestamp, unset
from loyalty.infra.problems import Problem
from loyalty.programs.policies import DEFAULTS, Policies

Mode = Literal["live", "sandbox"]
MODES: tuple[Mode, ...] = ("live", "sandbox")

ID_PATTERN = r"^[a-z][a-z0-9_-]{0,39}$"


def check_currency(value: str) -> str:
    """ValueError unless the text is an ISO 4217 code."""
    try:
        money.exponent(value)
    except money.MoneyError as error:
        raise ValueError(str(error)) from None
    return value


def check_timezone(value: str) -> str:
    """ValueError unless the text names a zone of the IANA database."""
    if value not in available_timezones():
        raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Berlin")
    return value


Currency = Annotated[
    str, AfterValidator(check_currency), Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.", examples=["USD"])
]
TimeZone = Annotated[
    str,
    AfterValidator(check_timezone),
    Field(max_length=64, description="IANA time zone in which days and months begin.", examples=["Europe/Berlin"]),
]
ProgramName = Annotated[str, Field(min_length=1, max_length=200, description="Name that people see.")]
BackdatingDays = Annotated[
    int | None,
    Field(ge=0, le=36_500, description="How many days back an event may have happened; null means any past date."),
]
AutoEnrol = Annotated[bool, Field(description="Whether the first event of an unknown customer enrols them.")]


@dataclass(frozen=True, slots=True)
class Program:
    """A program as the rest of the application uses it. Immutable, so that it can be cached."""

    id: str
    name: str
    currency: str
    timezone: str
    backdating_days: int | None
    auto_enrol: bool
    mode: str
    created_at: datetime
    version: int
    policies: Policies = DEFAULTS

    def to_document(self) -> dict[str, Any]:
        """The form that is stored."""
        return {
            "_id": self.id,
            "name": self.name,
            "currency": self.currency,
            "timezone": self.timezone,
            "backdating_days": self.backdating_days,
            "auto_enrol": self.auto_enrol,
            "mode": self.mode,
            "created_at": self.created_at,
            "version": self.version,
            "policies": self.policies.model_dump(mode="json"),
        }

    @staticmethod
    def from_document(document: dict[str, Any]) -> Program:
        """The program that `to_document` wrote, or a release that knew no policies."""
        policies = document.get("policies")
        return Program(
            id=document["_id"],
            name=document["name"],
            currency=document["currency"],
            timezone=document["timezone"],
            backdating_days=document["backdating_days"],
            auto_enrol=document["auto_enrol"],
            mode=document["mode"],
            created_at=document["created_at"],
            version=document["version"],
            policies=DEFAULTS if policies is None else Policies.model_validate(policies),
        )


class NewProgram(Body):
    """A program to create."""

    id: str = Field(pattern=ID_PATTERN, description="Chosen by you, for ever.", examples=["bakery"])
    name: ProgramName
    currency: Currency
    timezone: TimeZone = "UTC"
    backdating_days: BackdatingDays = None
    auto_enrol: AutoEnrol = True
    mode: Mode = Field("live", description="A sandbox is a program for trying things out.")
    policies: Policies = Field(default_factory=Policies, description="How its points behave.")


class ProgramChange(Body):
    """What to change; fields that are absent stay. Currency and mode cannot change: amounts depend on them."""

    name: ProgramName = unset()
    timezone: TimeZone = unset()
    backdating_days: BackdatingDays = unset()
    auto_enrol: AutoEnrol = unset()
    policies: Policies = unset("All policies together: what is absent in them goes back to its default.")


class ProgramOut(Out):
    """A program."""

    id: str = Field(description="The program's id.", examples=["bakery"])
    name: str = Field(description="Name that people see.")
    currency: str = Field(description="ISO 4217 code of all amounts.", examples=["USD"])
    timezone: str = Field(description="IANA time zone in which days and months begin.", examples=["Europe/Berlin"])
    backdating_days: int | None = Field(description="How many days back an event may lie; null means any past date.")
    auto_enrol: bool = Field(description="Whether the first event of an unknown customer enrols them.")
    mode: Mode = Field(description="live or sandbox.")
    created_at: Timestamp = Field(description="When the program was created.")
    version: int = Field(description="Grows with every change; the ETag carries it.")
    policies: Policies = Field(description="How its points behave.")

    @staticmethod
    def of(program: Program) -> ProgramOut:
        """The wire form of a program."""
        return ProgramOut.model_validate(program, from_attributes=True)


class ProgramExists(Problem):
    """A program with this id exists already."""

    code = "program_exists"
    status = 409
    title = "The program exists already"
