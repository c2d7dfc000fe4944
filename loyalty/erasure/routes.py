"""/v1/members/{m}/erase"""

from __future__ import annotations

import orjson

from loyalty.erasure import service
from loyalty.erasure.model import ErasedOut, Erasure
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.ids import member_id
from loyalty.infra.problems import NotFound
from loyalty.ledger.entry import member_of
from loyalty.members.model import MemberErased, MemberPath
from loyalty.members.service import reference
from loyalty.points.model import entry_json
from loyalty.programs import service as programs
from loyalty.transfers.model import OpenHolds

api = Api("erasure", "Erasure", "Forgetting who a member is.")


@api.post(
    "/v1/members/<member>/erase",
    scope="members:erase",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, OpenHolds, MemberErased),
    idempotency_header=True,
    example={"confirm": "erase"},
)
def erase_member(context: Context, member: MemberPath, body: Erasure) -> Reply[ErasedOut]:
    """Erase a member

    For good. The person is forgotten: profile, attributes and identities are removed, also those of members who were
    merged into it. Open points are forfeited by an entry; the chain stays and verifies, and belongs to a number.
    An event that names one of the identities does not enrol anybody again; `POST /v1/members` does."""
    done = service.erase(
        context.services,
        programs.get(context.services.db, context.program),
        reference(member),
        key=context.business_key(),
        by=context.caller.key,
    )
    answer = {
        "member": member_id(member_of(done.entry["_id"])),
        "entry": entry_json(done.entry),
        "replayed": done.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if done.replayed else 201, headers=headers)
