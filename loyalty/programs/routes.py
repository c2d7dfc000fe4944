"""/v1/programs"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loyalty.auth import service as auth
from loyalty.auth.model import ALL_SCOPES, NewKeyOut
from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Out
from loyalty.infra.http.problems import Forbidden
from loyalty.infra.problems import NotFound
from loyalty.programs import service
from loyalty.programs.model import NewProgram, Program, ProgramChange, ProgramExists, ProgramOut

api = Api("programs", "Programs", "Whose points they are: currency, time zone and the policies of a program.")

EXAMPLE = {"id": "bakery", "name": "Corner Bakery", "currency": "USD", "timezone": "America/New_York"}
CHANGE = {
    "backdating_days": 30,
    "policies": {
        "wallets": {
            "points": {
                "pending": {"type": "period", "days": 14},
                "expiry": {"type": "rolling", "months": 12, "round_up_to": "month"},
            }
        },
        "points_payment": {"points": 100, "amount": "1.00"},
    },
}

ProgramPath = Annotated[str, Field(description="The id of a program.", examples=["bakery"])]


class ProgramList(Out):
    """The programs that the key can see: its own."""

    data: list[ProgramOut] = Field(description="The programs.")


class ProgramCreated(Out):
    """A new program, and a key for it that is shown only now."""

    program: ProgramOut = Field(description="The program.")
    key: NewKeyOut = Field(description="The first API key of the program, with every scope.")


@api.get("/v1/programs", scope="programs:read")
def list_programs(context: Context) -> ProgramList:
    """List programs

    A key belongs to one program, so the list has one item."""
    return ProgramList(data=[ProgramOut.of(service.read(context.services.db, context.program))])


@api.post(
    "/v1/programs", scope="programs:write", status=201, idempotent=True, problems=(ProgramExists,), example=EXAMPLE
)
def create_program(context: Context, body: NewProgram) -> Reply[ProgramCreated]:
    """Create a program

    The answer holds the first API key of the program. It is shown once: an answer repeated for an Idempotency-Key
    has null in its place."""
    db, clock = context.services.db, context.services.clock
    program = service.create(db, clock=clock, **dict(body))
    key, secret = auth.create_key(
        db, program=program.id, mode=program.mode, name="first key", scopes=ALL_SCOPES, clock=clock
    )
    made = ProgramCreated(program=ProgramOut.of(program), key=NewKeyOut.of(key, secret))
    kept = ProgramCreated(program=made.program, key=NewKeyOut.of(key, None))
    return Reply(made, etag=version_tag(1), headers={"Location": f"/v1/programs/{program.id}"}, stored=kept)


@api.get("/v1/programs/<program_id>", scope="programs:read", problems=(NotFound,))
def read_program(context: Context, program_id: ProgramPath) -> Reply[ProgramOut]:
    """Read a program"""
    return _answer(service.read(context.services.db, _own(context, program_id)))


@api.patch(
    "/v1/programs/<program_id>",
    scope="programs:write",
    if_match="required",
    idempotent=True,
    problems=(NotFound,),
    example=CHANGE,
)
def change_program(context: Context, program_id: ProgramPath, body: ProgramChange) -> Reply[ProgramOut]:
    """Change a program

    Only the fields that are sent change, `policies` as a whole. Currency and mode are for ever, and so are wallets:
    members may have points in them."""
    changed = service.change(
        context.services.db,
        _own(context, program_id),
        expected_version=context.expected_version(),
        changes={name: getattr(body, name) for name in body.model_fields_set},
    )
    return _answer(changed)


def _own(context: Context, program_id: str) -> str:
    if program_id != context.program:
        raise Forbidden("This key belongs to another program.")
    return program_id


def _answer(program: Program) -> Reply[ProgramOut]:
    return Reply(ProgramOut.of(program), etag=version_tag(program.version))
