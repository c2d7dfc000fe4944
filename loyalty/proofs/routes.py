"""/v1/ledger/verification, /v1/ledger/seals, /v1/entries/{entry}/receipt, /v1/members/{member}/unfreeze"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import PageQuery
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.ids import entry_number
from loyalty.infra.problems import NotFound
from loyalty.members.model import MemberOut, MemberPath, Unfreezing
from loyalty.proofs import service
from loyalty.proofs.model import (
    NotSealedYet,
    ReceiptOut,
    SealBroken,
    SealOut,
    SealPage,
    VerificationOut,
    VerificationRunOut,
    run_json,
    seal_json,
    violation_json,
)

api = Api(
    "proofs",
    "Proofs",
    "That the ledger is what it was: verifications, seals, receipts that verify offline, and what the monitor found.",
)

EntryPath = Annotated[str, Field(description="The id of an entry.", examples=["ent_0000000g00001"])]
SealPath = Annotated[str, Field(description="The number of a seal.", examples=["1"])]


@api.get("/v1/ledger/verification", scope="ledger:read")
def read_verification(context: Context) -> Reply[VerificationOut]:
    """Read the last verifications

    The ledger and its verifications belong to the installation; violations are those of this program's members."""
    db = context.services.db
    return Reply(
        orjson.dumps(
            {
                "latest": [run_json(run) for run in service.latest_runs(db)],
                "violations": [violation_json(found) for found in service.open_violations(db, context.program)],
            }
        )
    )


@api.post("/v1/ledger/verification", scope="ledger:verify", status=202, idempotent=True)
def verify_ledger(context: Context) -> Reply[VerificationRunOut]:
    """Verify the whole ledger

    The jobs process does it, beginning within seconds: every chain, posting, state, seal, sum and wallet. While one
    waits or runs, that one is the answer. `loyalty ledger verify` does the same at once on a server."""
    run = service.request_verification(context.services.db, by=context.caller.key, clock=context.services.clock)
    return Reply(orjson.dumps(run_json(run)), headers={"Location": "/v1/ledger/verification"})


@api.get("/v1/ledger/seals", scope="ledger:read", problems=(InvalidCursor,))
def list_seals(context: Context, query: PageQuery) -> Reply[SealPage]:
    """List the seals

    Newest first. Keep one somewhere else, and you can tell whether anything before it was changed."""
    pager = Pager(context, query, "seals")
    seals = service.list_seals(context.services.db, limit=pager.limit + 1, before=pager.after)
    last = seals[pager.limit - 1]["_id"] if len(seals) > pager.limit else None
    return pager.reply_json([seal_json(seal) for seal in seals[: pager.limit]], last=last)


@api.get("/v1/ledger/seals/<seal>", scope="ledger:read", problems=(NotFound,))
def read_seal(context: Context, seal: SealPath) -> Reply[SealOut]:
    """Read a seal

    Seals never change."""
    if not (seal.isascii() and seal.isdecimal() and len(seal) < 16):
        raise NotFound(f"There is no seal {seal!r}. Seals have numbers; GET /v1/ledger/seals lists them.")
    return Reply(orjson.dumps(seal_json(service.read_seal(context.services.db, int(seal)))))


@api.get("/v1/entries/<entry>/receipt", scope="ledger:read", problems=(NotFound, NotSealedYet, SealBroken))
def read_receipt(context: Context, entry: EntryPath) -> Reply[ReceiptOut]:
    """Get the receipt of an entry

    The entry, its place in the seal's Merkle tree, and the seal with its signature. Whoever wants to be sure can check
    it without this server: `loyalty receipt verify FILE`."""
    made = service.receipt(context.services.db, context.program, entry)
    return Reply(made, etag=f'"receipt-{entry_number(entry)}"')


@api.post(
    "/v1/members/<member>/unfreeze",
    scope="members:unfreeze",
    idempotent=True,
    problems=(NotFound,),
    example={"reason": "The backup of yesterday was restored; the entry verifies."},
)
def unfreeze_member(context: Context, member: MemberPath, body: Unfreezing) -> Reply[MemberOut]:
    """Let a member spend again

    For one whose points the monitor froze because an entry does not verify. The violation keeps your reason, and does
    not freeze the member again."""
    changed = service.unfreeze(
        context.services.db,
        context.program,
        member,
        reason=body.reason,
        by=context.caller.key,
        clock=context.services.clock,
    )
    return Reply(MemberOut.of(changed), etag=version_tag(changed.version))
