"""What a back-test is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from loyalty.backtests.evaluation import Clock
from loyalty.backtests.totals import DRAFT, REAL, Difference, Totals
from loyalty.infra.http.model import Body, Out, Timestamp, format_instant
from loyalty.infra.ids import member_id
from loyalty.rules.model import RuleSet
from loyalty.tiers.model import TierScheme

Status = Literal["waiting", "running", "done", "failed"]
Json = dict[str, Any]

MOST_SEGMENT_VALUES = 100
"""So many values of a segment are in the result: those with the most points."""


def _unique(values: list[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise ValueError("names something twice")
    return values


Segment = Annotated[
    str,
    StringConstraints(
        pattern=r"^(tier|status|language|attributes\.[a-z][a-z0-9_]{0,63}|segments\.[a-z][a-z0-9_-]{0,63})$"
    ),
    Field(examples=["tier"]),
]


class NewBacktest(Body):
    """Rules to try on what really happened. Give `rules`, or the `draft` or the `version` that has them."""

    rules: RuleSet | None = Field(None, description="The rules.")
    draft: str | None = Field(None, max_length=64, description="The id of a draft of rules.")
    version: int | None = Field(None, ge=1, description="A published version of the rules.")
    tiers: TierScheme | None = Field(None, description="Other tiers to try with them; those in force if absent.")
    start: Timestamp | None = Field(
        None, alias="from", description="Events that occurred from this instant on; absent: from the first."
    )
    end: Timestamp | None = Field(
        None,
        alias="to",
        description="Events that occurred before this instant; absent: now. The liability is of this instant.",
    )
    clock: Clock = Field(
        "recorded",
        description="When events are decided: when they were `recorded`, as it really was, or when they `occurred`, as "
        "if each had been told at once: for histories that were imported.",
    )
    segments: Annotated[list[Segment], AfterValidator(_unique)] = Field(
        default_factory=lambda: ["tier"],
        max_length=5,
        description="What members are grouped by: `tier`, `status`, `language`, `attributes.<name>`, and "
        "`segments.<id>`: whether they are `in` a segment of the rules that are tried, or `out` of it, at the end.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> NewBacktest:
        if sum(given is not None for given in (self.rules, self.draft, self.version)) != 1:
            raise ValueError("give one of rules, draft and version")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("from must lie before to")
        return self


class ComparedOut(Out):
    """What the draft gives, beside what really happened."""

    draft: int = Field(description="By the rules that are tried.", examples=[120])
    real: int = Field(description="What really happened.", examples=[100])
    difference: int = Field(description="The draft less what really happened.", examples=[20])


class WalletTotalsOut(Out):
    """The points of one wallet."""

    issued: ComparedOut = Field(description="Points given for events.")
    reversed: ComparedOut = Field(description="Points taken back by refunds, as far as they go back to these events.")
    open: ComparedOut = Field(
        description="Points that these members still have at the end, waiting and held ones included: the liability."
    )
    unpaid: int = Field(description="Points that members spent and would not have had by the draft.")


class RuleTotalOut(Out):
    """What one rule gave; of a multiplier the difference that it made."""

    rule: str = Field(description="The rule.")
    wallet: str = Field(description="The wallet.")
    points: ComparedOut = Field(description="Its points.")


class CapTotalOut(Out):
    """What one limit withheld."""

    rule: str = Field(description="The rule that was limited.")
    reason: str = Field(description="The limit.", examples=["cap_per_month"])
    hits: ComparedOut = Field(description="How often.")
    withheld: ComparedOut = Field(description="Points that it withheld.")


class MoveOut(Out):
    """A change of level."""

    before: str = Field(alias="from", description="The level before.")
    after: str = Field(alias="to", description="The level after.")
    moves: ComparedOut = Field(description="How often.")


class LevelTotalOut(Out):
    """Members on a level at the end."""

    level: str = Field(description="The level; `none` without tiers.")
    members: ComparedOut = Field(description="How many.")


class BudgetOut(Out):
    """What a campaign with a budget came to."""

    campaign: str = Field(description="The campaign.")
    points: int = Field(description="What its rules gave; the budget did not limit it here.")


class SegmentOut(Out):
    """Members who have something in common."""

    segment: str = Field(description="What they are grouped by.", examples=["tier"])
    value: str = Field(description="What they have in common; `unknown` where nothing is known.", examples=["gold"])
    wallet: str = Field(description="The wallet.", examples=["points"])
    winners: int = Field(description="Members who get more.")
    losers: int = Field(description="Members who get less.")
    unchanged: int = Field(description="Members who get the same.")
    points: ComparedOut = Field(description="What they get.")


class DifferenceOut(Out):
    """What a member gets."""

    member: str = Field(description="The member.", examples=["mem_00000001"])
    points: ComparedOut = Field(description="Points of the wallet.")
    segments: dict[str, str] = Field(description="What the member is grouped by.")


class BacktestResultOut(Out):
    """What came out."""

    events: int = Field(description="Events that were decided anew.")
    members: int = Field(description="Members of whom something happened in the span.")
    wallets: dict[str, WalletTotalsOut] = Field(description="By wallet.")
    rules: list[RuleTotalOut] = Field(description="By rule; those of the draft and those that were in force.")
    caps: list[CapTotalOut] = Field(description="By limit.")
    budgets: list[BudgetOut] = Field(description="By campaign.")
    moves: list[MoveOut] = Field(description="Changes of level.")
    levels: list[LevelTotalOut] = Field(description="Where members stand at the end.")
    segments: list[SegmentOut] = Field(description="Winners and losers by segment, those with the most points first.")
    winners: dict[str, list[DifferenceOut]] = Field(description="By wallet, the ten members who gain the most.")
    losers: dict[str, list[DifferenceOut]] = Field(description="By wallet, the ten members who lose the most.")


class BacktestOut(Out):
    """A back-test: what was asked for, how far it is, and in the end what came out."""

    id: str = Field(description="Its id.", examples=["bkt_01j00000000000000000000000"])
    status: Literal["waiting", "running", "done", "failed"] = Field(description="How far it is.")
    requested_at: Timestamp = Field(description="When it was asked for.")
    requested_by: str = Field(description="The key that asked.")
    started_at: Timestamp | None = Field(description="When it began.")
    finished_at: Timestamp | None = Field(description="When it ended.")
    start: Timestamp | None = Field(alias="from", description="The begin of the span; null: the first event.")
    end: Timestamp = Field(alias="to", description="The end of the span.")
    clock: Clock = Field(description="When events are decided.")
    draft: str | None = Field(description="The draft that was tried, if it was one.")
    version: int | None = Field(description="The version that was tried, if it was one.")
    events: int = Field(description="Events decided so far.")
    percent: int = Field(description="How much is done.", examples=[40])
    error: str | None = Field(description="Why it failed.")
    result: BacktestResultOut | None = Field(description="What came out; null until it is done.")


def backtest_json(document: Mapping[str, Any]) -> Json:
    """A `BacktestOut`."""

    def instant(name: str) -> str | None:
        found: datetime | None = document.get(name)
        return format_instant(found) if found is not None else None

    parts = document.get("parts")
    done = document["status"] == "done"
    return {
        "id": document["_id"],
        "status": document["status"],
        "requested_at": instant("requested_at"),
        "requested_by": document["requested_by"],
        "started_at": instant("started_at"),
        "finished_at": instant("finished_at"),
        "from": instant("from"),
        "to": instant("to"),
        "clock": document["clock"],
        "draft": document.get("draft"),
        "version": document.get("version"),
        "events": document.get("events", 0),
        "percent": 100 if done else 100 * document.get("parts_done", 0) // parts if parts else 0,
        "error": document.get("error"),
        "result": document.get("result"),
    }


def result_json(totals: Totals, segments: list[str]) -> Json:
    """A `BacktestResultOut`."""
    wallets = {key[0] for name in ("issued", "open", "reversed") for key in totals.of(name)} | {
        key[0] for key in totals.of("unpaid")
    }

    def compared(*key: str) -> Json:
        return _compared(totals.sums.get((*key, DRAFT), 0), totals.sums.get((*key, REAL), 0))

    def keys(name: str, length: int) -> list[tuple[str, ...]]:
        return sorted({key[:length] for key in totals.of(name)})

    return {
        "events": totals.sums.get(("events",), 0),
        "members": totals.sums.get(("members",), 0),
        "wallets": {
            wallet: {
                **{name: compared(name, wallet) for name in ("issued", "reversed", "open")},
                "unpaid": totals.sums.get(("unpaid", wallet), 0),
            }
            for wallet in sorted(wallets)
        },
        "rules": [
            {"rule": rule, "wallet": wallet, "points": compared("rules", rule, wallet)}
            for rule, wallet in keys("rules", 2)
        ],
        "caps": [
            {
                "rule": rule,
                "reason": reason,
                "hits": compared("caps", rule, reason, "hits"),
                "withheld": compared("caps", rule, reason, "withheld"),
            }
            for rule, reason in keys("caps", 2)
        ],
        "budgets": [{"campaign": key[0], "points": points} for key, points in sorted(totals.of("budgets").items())],
        "moves": [
            {"from": before, "to": after, "moves": compared("moves", before, after)}
            for before, after in keys("moves", 2)
        ],
        "levels": [{"level": level, "members": compared("levels", level)} for (level,) in keys("levels", 1)],
        "segments": _segments(totals, segments),
        "winners": _differences(totals.winners, segments),
        "losers": _differences(totals.losers, segments),
    }


def _segments(totals: Totals, segments: list[str]) -> list[Json]:
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for key, points in totals.of("segments").items():
        found.setdefault(key[:3], {})[key[3]] = points
    lines = []
    for segment in segments:
        own = [(key, sums) for key, sums in found.items() if key[0] == segment]
        own.sort(key=lambda one: (-one[1].get(DRAFT, 0) - one[1].get(REAL, 0), one[0]))
        lines += [
            {
                "segment": segment,
                "value": value,
                "wallet": wallet,
                **{name: sums.get(name, 0) for name in ("winners", "losers", "unchanged")},
                "points": _compared(sums.get(DRAFT, 0), sums.get(REAL, 0)),
            }
            for (_, value, wallet), sums in own[:MOST_SEGMENT_VALUES]
        ]
    return lines


def _differences(found: Mapping[str, list[Difference]], segments: list[str]) -> dict[str, list[Json]]:
    return {
        wallet: [
            {
                "member": member_id(one.member),
                "points": _compared(one.draft, one.real),
                "segments": dict(zip(segments, one.segments, strict=True)),
            }
            for one in differences
        ]
        for wallet, differences in sorted(found.items())
    }


def _compared(draft: int, real: int) -> Json:
    return {"draft": draft, "real": real, "difference": draft - real}
