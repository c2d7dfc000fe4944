"""How the ledger looks on the wire. Functions make plain JSON values, classes describe them for the API document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from loyalty.infra import money
from loyalty.infra.http.model import Out, Timestamp, format_instant
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.problems import Problem
from loyalty.ledger.entry import member_of
from loyalty.ledger.state import NEVER, SOMEDAY, State, Wallet

Json = dict[str, Any]

_HELD = frozenset({"pending", "available", "held"})


class EventConflict(Problem):
    """The event's source and id were recorded before with another content. Nothing happened."""

    code = "event_conflict"
    status = 409
    title = "The event was recorded with another content"


class InsufficientPoints(Problem):
    """The member has fewer points available than the request needs; `missing_points` more would do."""

    code = "insufficient_points"
    status = 409
    title = "The member does not have enough points"


class MemberBlocked(Problem):
    """The member's status does not allow this."""

    code = "member_blocked"
    status = 409
    title = "The member may not do this"


class TooManyPoints(Problem):
    """The wallet would hold more points than JSON readers can count exactly."""

    code = "too_many_points"
    status = 409
    title = "The wallet would overflow"


class HoldAlreadyResolved(Problem):
    """The hold is over. `resolution` says how (captured, voided, timed_out), `resolved_by` is the entry that did it."""

    code = "hold_already_resolved"
    status = 409
    title = "The hold was resolved before"


class HoldTooSmall(Problem):
    """A capture takes at most what is held: `held_points`. Void the hold, or capture less."""

    code = "hold_too_small"
    status = 409
    title = "The hold has fewer points"


class WalletNotSpendable(Problem):
    """The policy of the wallet does not let its points be spent. Choose another wallet."""

    code = "wallet_not_spendable"
    status = 409
    title = "The wallet cannot be spent from"


class WalletNotTransferable(Problem):
    """The policy of the wallet does not let members give its points to each other."""

    code = "wallet_not_transferable"
    status = 409
    title = "The wallet's points cannot be given away"


class PostingOut(Out):
    """One movement of points."""

    wallet: str = Field(description="The wallet.", examples=["points"])
    source: str = Field(alias="from", description="The bucket that the points leave.", examples=["issuance"])
    target: str = Field(alias="to", description="The bucket that they enter.", examples=["available"])
    points: int = Field(description="How many, always above zero.", examples=[11])
    lot: int = Field(description="The lot of the member's wallet that they leave or enter.", examples=[1])
    activates_at: Timestamp | None = Field(
        None, description="Until when they are pending; the year 9999 if until an event comes or somebody says so."
    )
    expires_at: Timestamp | None = Field(None, description="When they expire; absent for points that never do.")
    into: int | None = Field(
        None, description="The lot that points join which leave another one. Lot 0 is what the wallet owes."
    )
    hold: int | None = Field(
        None, description="The hold that they enter or leave: the number of the entry that made it."
    )
    until: Timestamp | None = Field(None, description="Until when a new hold lasts.")
    grace_days: int | None = Field(None, description="How long points of the hold are good for that expire under it.")


class EntryOut(Out):
    """One entry of the ledger. It never changes."""

    id: str | None = Field(description="The entry's id; null in a rehearsal.", examples=["ent_00000000g0001"])
    member: str | None = Field(
        description="The member whose chain it is in; null in a rehearsal for an unknown customer.",
        examples=["mem_00000001"],
    )
    kind: str = Field(description="What happened: earn, spend, adjust, …", examples=["earn"])
    occurred_at: Timestamp = Field(description="When it happened.")
    recorded_at: Timestamp = Field(description="When the ledger learnt of it.")
    points: dict[str, int] = Field(description="What each wallet gained or lost.", examples=[{"points": 11}])
    postings: list[PostingOut] = Field(description="The movements, in order.")
    hash: str | None = Field(
        description="SHA-256 of the entry and of everything before it, hexadecimal; null in a rehearsal."
    )


class BucketsOut(Out):
    """What a wallet holds."""

    available: int = Field(description="Points that can be spent.", examples=[11])
    pending: int = Field(description="Points that are not yet available.", examples=[0])
    held: int = Field(description="Points set aside for a purchase that is not complete.", examples=[0])


class ActOut(Out):
    """What every act answers with."""

    entry: EntryOut = Field(description="The ledger entry that it made.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class LineOut(Out):
    """What one rule gave."""

    rule: str = Field(description="The rule.", examples=["base"])
    wallet: str = Field(description="The wallet that its points enter.", examples=["points"])
    points: int = Field(description="The points that it gave.", examples=[11])
    basis: str = Field(description="The amount that it looked at.", examples=["11.77"])
    reason: str | None = Field(None, description="Why it gave nothing, or less.", examples=["below_minimum"])
    quantity: int | None = Field(None, description="The pieces that it counted.")
    wanted: int | None = Field(None, description="The points that it would have given without the limit.")


class PartOut(Out):
    """Points of one lot."""

    id: int = Field(description="The lot.", examples=[1])
    points: int = Field(description="How many.", examples=[500])
    expires_at: Timestamp | None = Field(None, description="When the lot expires.")


class CreditOut(Out):
    """Points that entered a wallet by a rule, with what the policies made of them."""

    rule: str = Field(description="The rule.", examples=["base"])
    wallet: str = Field(description="The wallet that they entered.", examples=["points"])
    points: int = Field(description="How many.", examples=[11])
    attribution: list[int] | None = Field(
        None,
        description="How many of them each line of the purchase earned, in its order, where lines did.",
    )
    activates_at: Timestamp | None = Field(None, description="Until when they were pending.")
    expires_at: Timestamp | None = Field(None, description="When they expire.")
    awaits: str | None = Field(None, description="The type of the event that they wait for.")
    waits: bool | None = Field(None, description="Whether they wait for an event or for somebody to activate them.")


class PaidOut(Out):
    """Points that paid a part of the purchase."""

    wallet: str = Field(description="The wallet that they left.", examples=["points"])
    points: int = Field(description="How many.", examples=[500])
    amount: str = Field(description="What they paid.", examples=["5.00"])
    hold: str | None = Field(None, description="The hold that was captured.")
    parts: list[PartOut] = Field(description="The lots that they came from, in the order in which they were used.")


class LotMoveOut(Out):
    """Points of one lot that moved, other than by being earned."""

    wallet: str = Field(description="The wallet.", examples=["points"])
    lot: int = Field(description="The lot that they left or came back to. Lot 0 is what the wallet owes.", examples=[1])
    points: int = Field(description="How many.", examples=[20])
    source: str = Field(alias="from", description="The bucket that they left.", examples=["available"])
    target: str = Field(alias="to", description="The bucket that they entered.", examples=["spent"])
    expires_at: Timestamp | None = Field(None, description="When the lot expires; absent where it never does.")


class UnearningOut(Out):
    """A part of the purchase that earned nothing because of how it was paid."""

    methods: list[str] = Field(description="By what it was paid.", examples=[["points"]])
    amount: str = Field(description="How much that was.", examples=["5.00"])


class ExplanationOut(Out):
    """Why an entry is as it is: what each rule gave, what limited it, and what became of the points."""

    rules_version: int | None = Field(description="The version of the rules that decided; null when none did.")
    lines: list[LineOut] = Field(description="Each rule and what it gave.")
    limits: list[str] = Field(description="Why points were withheld as a whole, or cut.", examples=[["no_rules"]])
    credits: list[CreditOut] = Field(description="The points that entered wallets, by rule.")
    passed: dict[str, str] | None = Field(None, description="The rules that gave nothing at all, and why.")
    benefits: list[str] | None = Field(None, description="What else the rules granted.")
    drawn: dict[str, int] | None = Field(None, description="Points that count against the budget of a campaign.")
    level: str | None = Field(None, description="The tier by which it was decided: that before the event.")
    paid: list[PaidOut] | None = Field(None, description="Points that paid a part of it.")
    unearning: UnearningOut | None = Field(
        None, description="What the program's policies kept out of every rule, because of how it was paid."
    )
    lots: list[LotMoveOut] | None = Field(
        None, description="The lots whose points were used, expired, were taken back or came back, in this order."
    )
    detail: Json = Field(
        description="What else the entry was made from: the reward, the reason, who did it; the purchase that it takes "
        "back and how much of it (`refund`), and what has become of that purchase by now (`refunded`)."
    )


class ExpiringOut(Out):
    """Points that expire together."""

    at: Timestamp = Field(description="When: at this very instant they are gone.")
    points: int = Field(description="How many.")


class LifetimeOut(Out):
    """Totals since the member joined; what came less what went (spent, expired, reversed) is there now."""

    earned: int = Field(description="Given by rules.")
    spent: int = Field(description="Paid for rewards.")
    expired: int = Field(description="Lost by time.")
    reversed: int = Field(description="Taken back for returned goods.")
    adjusted: int = Field(description="Changed by hand, net.")
    restored: int = Field(description="Given back when a reward was cancelled, or a purchase that points had paid.")
    transferred: int = Field(description="Received from other members less given to them.")


class WalletOut(BucketsOut):
    """What a wallet holds and held. The points in `expiring` and those that never expire make up `available`.

    A wallet that owes points has less than none available: what it gets next makes up for that.
    """

    lifetime: LifetimeOut = Field(description="Totals since the member joined.")
    expiring: list[ExpiringOut] = Field(description="Available points that will expire, the earliest first.")
    next_activation: ExpiringOut | None = Field(description="The next pending points to become available by time.")
    waiting: int = Field(description="Pending points that wait for an event, or for somebody to activate them.")
    lapses_at: Timestamp | None = Field(description="When all of it expires unless the member does something before.")


class BalanceOut(Out):
    """What a member has."""

    member: str = Field(description="The member.", examples=["mem_00000001"])
    as_of: Timestamp | None = Field(description="Since when it is so; null if nothing was ever recorded.")
    wallets: dict[str, WalletOut] = Field(description="By wallet.")


def entry_json(entry: Mapping[str, Any]) -> Json:
    """An `EntryOut`."""
    return {
        "id": entry_id(entry["_id"]),
        "member": member_id(member_of(entry["_id"])),
        "kind": entry["kind"],
        "occurred_at": format_instant(entry["occurred_at"]),
        "recorded_at": format_instant(entry["recorded_at"]),
        "points": changes(entry),
        "postings": [
            {name: format_instant(value) if isinstance(value, datetime) else value for name, value in posting.items()}
            for posting in entry["postings"]
        ],
        "hash": entry["hash"].hex(),
    }


def rehearsed_json(entry: Mapping[str, Any]) -> Json:
    """An `EntryOut` that was not made: whatever would name it is null."""
    known = {} if member_of(entry["_id"]) else {"member": None}
    return {**entry_json(entry), "id": None, "hash": None, **known}


def changes(entry: Mapping[str, Any]) -> dict[str, int]:
    """What each wallet gained or lost by the entry, whatever the bucket."""
    net: dict[str, int] = {}
    for posting in entry["postings"]:
        gained = (posting["to"] in _HELD) - (posting["from"] in _HELD)
        net[posting["wallet"]] = net.get(posting["wallet"], 0) + gained * posting["points"]
    return net


def buckets_json(entry: Mapping[str, Any]) -> Json:
    """`BucketsOut` by wallet: what the member has after the entry. The spendable wallet is always there."""
    wallets = entry["state"]["wallets"] or {"points": {"available": 0, "pending": 0, "held": 0}}
    return {
        name: {bucket: wallet[bucket] for bucket in ("available", "pending", "held")}
        for name, wallet in wallets.items()
    }


def explanation_json(entry: Mapping[str, Any]) -> Json:
    """An `ExplanationOut`, from the entry alone."""
    evidence = entry["evidence"]
    award = evidence.get("award", {})
    currency = award.get("currency")
    explanation: Json = {
        "rules_version": award.get("version"),
        "lines": [{**line, "basis": money.to_text(line["basis"], currency)} for line in award.get("lines", ())],
        "limits": award.get("limits", []),
        "credits": [_credit_json(credit) for credit in award.get("credits", ())],
        "detail": _wire({name: value for name, value in evidence.items() if name not in ("award", "event", "request")}),
    }
    for name in ("passed", "benefits", "drawn"):
        if name in award:
            explanation[name] = award[name]
    if "tier" in award:
        explanation["level"] = award["tier"]
    if "paid" in award:
        explanation["paid"] = [
            {**_wire(paid), "amount": money.to_text(paid["amount"], currency)} for paid in award["paid"]
        ]
    if "unearning" in award:
        unearning = award["unearning"]
        explanation["unearning"] = {**unearning, "amount": money.to_text(unearning["amount"], currency)}
    lots = [_lot_json(posting) for posting in entry["postings"] if posting["from"] != "issuance"]
    if lots:
        explanation["lots"] = lots
    return explanation


def _lot_json(posting: Mapping[str, Any]) -> Json:
    """A `LotMoveOut`."""
    shown = {name: posting[name] for name in ("wallet", "lot", "points", "from", "to")}
    ends = posting.get("expires_at")
    return shown if ends is None else {**shown, "expires_at": format_instant(ends)}


def _credit_json(credit: Mapping[str, Any]) -> Json:
    """A `CreditOut`. The policy by which waiting points will expire stays in the evidence."""
    known = {name: value for name, value in credit.items() if name != "expiry"}
    if known.get("activates_at") == SOMEDAY:
        del known["activates_at"]
        known["waits"] = True
    # Nothing deeper holds an instant, and looking for some in the points of every line takes long.
    return {name: format_instant(value) if isinstance(value, datetime) else value for name, value in known.items()}


def _wire(value: Any) -> Any:
    """The value with instants as they are on the wire."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, dict):
        return {name: _wire(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_wire(item) for item in value]
    return value


def balance_json(member: int, as_of: datetime | None, state: State) -> Json:
    """A `BalanceOut`; `state` is settled."""
    wallets = dict(state.wallets) or {"points": Wallet()}
    return {
        "member": member_id(member),
        "as_of": format_instant(as_of) if as_of else None,
        "wallets": {name: _wallet_json(wallet) for name, wallet in wallets.items()},
    }


def _wallet_json(wallet: Wallet) -> Json:
    by_time = [lot for lot in wallet.lots if lot.activates_at not in (None, SOMEDAY)]
    following = min(by_time, key=lambda lot: lot.activates_at or NEVER, default=None)
    return {
        "available": wallet.available,
        "pending": wallet.pending,
        "held": wallet.held,
        "lifetime": {
            "earned": wallet.earned,
            "spent": wallet.spent,
            "expired": wallet.expired,
            "reversed": wallet.reversed,
            "adjusted": wallet.adjusted,
            "restored": wallet.restored,
            "transferred": wallet.transferred,
        },
        "expiring": [
            {"at": format_instant(lot.expires_at), "points": lot.points}
            for lot in wallet.lots
            if lot.activates_at is None and lot.expires_at is not None
        ],
        "next_activation": {"at": format_instant(following.activates_at), "points": following.points}
        if following is not None and following.activates_at is not None
        else None,
        "waiting": sum([lot.points for lot in wallet.lots if lot.activates_at == SOMEDAY]),
        "lapses_at": None if wallet.lapses_at is None else format_instant(wallet.lapses_at),
    }
