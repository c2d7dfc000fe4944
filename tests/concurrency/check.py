"""The proof: every call happened at one instant between its beginning and its end, or so it looks to everybody.

The order of a member's chain is the witness. It must respect real time (what ended before another call began stands
before it), every answer must be what the sequential model says at that place, and every refusal must have been right
at some place between the last entry that had ended before the call began and the first that began after it ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from loyalty.infra.ids import entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger.verify import verify
from tests.concurrency.traffic import Call
from tests.model.naive_member import World

PROGRAM: dict[str, Any] = {
    "zone": "UTC",
    "policies": {"wallets": {"points": {}}},
    "rules": {"rules": [{"id": "base", "type": "points_per_spend", "wallet": "points", "points": 1, "per": "1.00"}]},
    "tiers": None,
}
NEVER = 1 << 62


@dataclass
class Place:
    """A place in a chain: what the sequential model says after its entry, and when its call began and ended."""

    began: int
    ended: int
    available: int
    held: int
    open_holds: frozenset[int]
    left: dict[str, int]
    cancelled: frozenset[int]


@dataclass
class Verdict:
    """What was found. `wrong` is empty when everything is as it has to be."""

    calls: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    wrong: list[str] = field(default_factory=list)


def judge(db: Mongo, calls: Sequence[Call]) -> Verdict:
    """Go through the ledger and all calls."""
    verdict = Verdict()
    entries = list(db.ledger.find().sort("_id"))
    verdict.entries = len(entries)
    by_key: dict[bytes, list[Document]] = defaultdict(list)
    for entry in entries:
        for key in entry["keys"]:
            by_key[bytes(key)].append(entry)
    callers: dict[bytes, list[Call]] = defaultdict(list)
    for call in calls:
        verdict.calls[f"{call.kind} {call.status} {call.code}".strip()] += 1
        for _, key in call.keys:
            callers[key].append(call)
    verdict.wrong += _once(calls, by_key)
    chains: dict[int, list[Place]] = {}
    for member in sorted({entry["_id"] >> 24 for entry in entries}):
        chain = [entry for entry in entries if entry["_id"] >> 24 == member]
        chains[member] = _replay(chain, callers, verdict.wrong)
        verdict.wrong += _against_time(member, chains[member])
    verdict.wrong += [
        f"{call.kind} of member {call.member} was refused ({call.code}) or answered {call.seen}, which it never was"
        for call in calls
        if not _could_be(call, chains[call.member])
    ]
    verdict.wrong += _conserved(entries)
    verdict.wrong += [f"{defect.where}: {defect.what}" for defect in verify(db).defects]
    return verdict


def _once(calls: Sequence[Call], by_key: dict[bytes, list[Document]]) -> list[str]:
    """Each operation that was acknowledged is in the chain once, as it was acknowledged; each refused one is not."""
    wrong = []
    done = {call.keys[0][1] for call in calls if call.status == "done" and call.keys}
    for call in calls:
        for place, (member, key) in enumerate(call.keys):
            found = by_key.get(key, [])
            if len(found) > 1:
                wrong.append(f"{call.kind} happened {len(found)} times")
            if call.status == "refused" and found and call.keys[0][1] not in done:
                wrong.append(f"{call.kind} was refused and happened")
            if call.status != "done":
                continue
            if not found:
                wrong.append(f"{call.kind} was acknowledged and is lost")
            elif found[0]["_id"] >> 24 != member:
                wrong.append(f"{call.kind} happened to somebody else")
            elif place == 0 and (found[0]["_id"], bytes(found[0]["hash"])) != (call.entry, call.hash):
                wrong.append(f"{call.kind} is not what was acknowledged")
    return wrong


def _replay(chain: Sequence[Document], callers: dict[bytes, list[Call]], wrong: list[str]) -> list[Place]:
    """The chain in the sequential model, entry by entry."""
    world = World(PROGRAM, date(2020, 1, 1))
    cancelled: set[int] = set()
    places = []
    for entry in chain:
        asked = [call for key in entry["keys"] for call in callers.get(bytes(key), [])]
        if not asked:
            wrong.append(f"nobody asked for entry {entry['_id']}")
        _happen(world, entry, cancelled)
        purse = world.purses["points"]
        said = entry["state"]["wallets"].get("points", {"available": 0, "held": 0})
        if (purse.available(), purse.held()) != (said["available"], said["held"]):
            wrong.append(f"entry {entry['_id']} says {said}, the model {purse.available()} and {purse.held()} held")
        if purse.available() < 0:
            wrong.append(f"entry {entry['_id']} overspends")
        firsts = [call for call in asked if call.kind != "again"] or asked
        ended = [call.ended for call in asked if call.status == "done"]
        places.append(
            Place(
                min((call.began for call in firsts), default=0),
                min(ended, default=NEVER),
                purse.available(),
                purse.held(),
                frozenset(hold.number for hold in purse.holds),
                {name: known.left() for name, known in world.known.items()},
                frozenset(cancelled),
            )
        )
    return places


def _happen(world: World, entry: Document, cancelled: set[int]) -> None:
    """What the entry records, done in the model."""
    now, evidence, sequence = entry["recorded_at"], entry["evidence"], entry["_id"] & ((1 << 24) - 1)
    kind = entry["kind"]
    if kind == "earn":
        event = evidence["event"]
        amount = event["amount"]
        told = {"id": event["id"], "type": "purchase", "amount": f"{amount // 100}.{amount % 100:02}"}
        world.event(told, now)
    elif kind == "refund":
        event = evidence["event"]
        told = {"id": event["id"], "type": "refund", "refers_to": event["refers_to"]}
        if "amount" in event:
            told["amount"] = f"{event['amount'] // 100}.{event['amount'] % 100:02}"
        world.event(told, now)
    elif kind == "hold":
        world.hold("points", evidence["hold"]["points"], 3600, now, sequence)
    elif kind in ("capture", "void"):
        number = next(posting["hold"] for posting in entry["postings"] if posting["from"] == "held")
        if kind == "void":
            world.void("points", number, now)
        else:
            world.capture("points", number, evidence["captured"], now)
    elif kind == "spend":
        world.spend("points", evidence["reward"]["cost"], now, sequence)
    elif kind == "cancel":
        redemption = (entry_number(evidence["redemption"]) or 0) & ((1 << 24) - 1)
        world.cancel(redemption, now)
        cancelled.add(redemption)
    elif kind == "transfer":
        transfer = evidence["transfer"]
        if "to" in transfer:
            world.give_away("points", transfer["points"], now)
        else:
            world.purses["points"].put("transferred", transfer["points"])


def _against_time(member: int, places: Sequence[Place]) -> list[str]:
    """Whatever ended before another call began must stand before it in the chain."""
    wrong = []
    earliest_end = NEVER
    for sequence in range(len(places), 0, -1):
        place = places[sequence - 1]
        if place.began > earliest_end:
            wrong.append(f"entry {sequence} of member {member} stands before one that ended earlier than it began")
        earliest_end = min(earliest_end, place.ended)
    return wrong


def _could_be(call: Call, places: Sequence[Place]) -> bool:
    """Whether a refusal, or what a read saw, was true at a place that the call could have seen."""
    if call.kind != "read" and call.status != "refused":
        return True
    first = max((number for number, place in enumerate(places, start=1) if place.ended < call.began), default=0)
    last = min(
        (number for number, place in enumerate(places, start=1) if place.began > call.ended), default=len(places) + 1
    )
    seen = places[max(first - 1, 0) : last - 1]
    return any(_is_right(call)(place) for place in seen)


def _is_right(call: Call) -> Callable[[Place], bool]:
    detail = call.detail
    if call.kind == "read":
        return lambda place: (place.available, place.held) == (call.seen["available"], call.seen["held"])
    if call.code == "insufficient_points":
        return lambda place: place.available == call.seen["available_points"] < detail["points"]
    if call.code == "hold_already_resolved":
        return lambda place: detail["hold"] & ((1 << 24) - 1) not in place.open_holds
    if call.code == "already_cancelled":
        return lambda place: detail["redemption"] & ((1 << 24) - 1) in place.cancelled
    if call.code == "refund_exceeds_purchase":
        wanted = int(detail["event"].get("amount", "0").replace(".", ""))
        bought = detail["event"]["refers_to"]
        return lambda place: bought in place.left and (place.left[bought] < wanted or place.left[bought] == 0)
    return lambda place: False


def _conserved(entries: Sequence[Document]) -> list[str]:
    """Transfers neither make nor lose points, and what members have is what came less what went."""
    moved: Counter[tuple[str, str]] = Counter()
    latest: dict[int, Document] = {}
    for entry in entries:
        latest[entry["_id"] >> 24] = entry
        for posting in entry["postings"]:
            moved[posting["from"], posting["to"]] += posting["points"]
    have = sum(
        wallet["available"] + wallet["held"] + wallet["pending"]
        for entry in latest.values()
        for wallet in entry["state"]["wallets"].values()
    )
    came = sum(points for (source, _), points in moved.items() if source in ("issuance", "spent", "adjusted"))
    went = sum(points for (_, target), points in moved.items() if target in ("spent", "expired", "reversed"))
    given = sum(points for (_, target), points in moved.items() if target == "transferred")
    got = sum(points for (source, _), points in moved.items() if source == "transferred")
    wrong = []
    if given != got:
        wrong.append(f"{given} points were given away and {got} arrived")
    if have != came - went:
        wrong.append(f"members have {have} points, {came} came and {went} went")
    return wrong
