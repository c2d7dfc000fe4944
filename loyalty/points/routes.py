"""/v1/members/{m}/balance, /v1/members/{m}/lots, /v1/members/{m}/entries, /v1/entries"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Page, PageQuery, Query, Timestamp
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.ids import entry_id
from loyalty.infra.problems import NotFound
from loyalty.members import service as members
from loyalty.members.model import MemberPath
from loyalty.points import service
from loyalty.points.lots import LotsOut, lots_json
from loyalty.points.model import BalanceOut, EntryOut, ExplanationOut, balance_json, entry_json, explanation_json

api = Api("points", "Points", "Balances, and the ledger that they come from.")

EntryPath = Annotated[str, Field(description="The id of an entry.", examples=["ent_0000000g00001"])]


class AsOfQuery(Query):
    """When to look. With both instants: what had happened by the one, as it was known at the other."""

    at: Timestamp | None = Field(None, description="An instant of the past: what was known then.")
    happened_at: Timestamp | None = Field(
        None, description="An instant of the past: what had happened by then, also what was told later."
    )


class EntriesQuery(PageQuery):
    """A page, and which entries."""

    at: Timestamp | None = Field(None, description="Only what was recorded by this instant.")
    happened_at: Timestamp | None = Field(None, description="Only what had happened by this instant.")


class EntryPage(Page[EntryOut]):
    """One page of a member's entries, newest first."""


@api.get("/v1/members/<member>/balance", scope="ledger:read", problems=(NotFound,), direct=True)
def read_balance(context: Context, member: MemberPath, query: AsOfQuery) -> Reply[BalanceOut]:
    """Read a balance

    From the ledger, as it is at this moment: points that became available or expired meanwhile count as such."""
    found, head = service.find_with_head(context.services.db, context.program, member)
    db, now = context.services.db, context.services.clock()
    state, as_of = service.balance(db, head, now=now, at=query.at, happened_at=query.happened_at)
    return Reply(orjson.dumps(balance_json(found.number, as_of, state)))


@api.get("/v1/members/<member>/lots", scope="ledger:read", problems=(NotFound,))
def list_lots(context: Context, member: MemberPath, query: AsOfQuery) -> Reply[LotsOut]:
    """List a member's open lots

    In the order in which they will be spent, each with the entries that its points came by, and what took those that
    are gone: of equal points, those leave first that came first."""
    found, head = service.find_with_head(context.services.db, context.program, member)
    db, now = context.services.db, context.services.clock()
    lots = service.lots(db, head, now=now, at=query.at, happened_at=query.happened_at)
    return Reply(orjson.dumps(lots_json(found.number, [(lot.wallet, lot.lot, lot.lineage) for lot in lots])))


@api.get("/v1/members/<member>/entries", scope="ledger:read", problems=(NotFound, InvalidCursor))
def list_entries(context: Context, member: MemberPath, query: EntriesQuery) -> Reply[EntryPage]:
    """List a member's entries

    Newest first. Pages are stable while entries are added."""
    found = members.find(context.services.db, context.program, member)
    pager = Pager(context, query, f"entries|{found.id}")
    entries = service.entries(
        context.services.db,
        found,
        before=pager.after,
        limit=pager.limit + 1,
        at=query.at,
        happened_at=query.happened_at,
    )
    last = int(entries[pager.limit - 1]["_id"]) if len(entries) > pager.limit else None
    return pager.reply_json([entry_json(entry) for entry in entries[: pager.limit]], last=last)


@api.get("/v1/entries/<entry>", scope="ledger:read", problems=(NotFound,))
def read_entry(context: Context, entry: EntryPath) -> Reply[EntryOut]:
    """Read an entry

    Entries never change, so neither does the answer."""
    found = service.entry(context.services.db, context.program, entry)
    return Reply(orjson.dumps(entry_json(found)), etag=f'"{entry_id(found["_id"])}"')


@api.get("/v1/entries/<entry>/explanation", scope="ledger:read", problems=(NotFound,))
def explain_entry(context: Context, entry: EntryPath) -> Reply[ExplanationOut]:
    """Explain an entry

    Which version of the rules decided, what each rule gave, and what limited it."""
    found = service.entry(context.services.db, context.program, entry)
    return Reply(orjson.dumps(explanation_json(found)), etag=f'"{entry_id(found["_id"])}"')
