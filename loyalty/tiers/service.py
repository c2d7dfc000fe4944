"""What can be done with tiers: publish a scheme, read one, ask where a member stands, and lock a level by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from loyalty.infra.cache import TtlCache
from loyalty.infra.clock import Clock
from loyalty.infra.elections import as_of_now
from loyalty.infra.http.problems import PreconditionFailed, PreconditionRequired
from loyalty.infra.money import MoneyError, to_minor
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound, Unavailable, ValidationFailed
from loyalty.ledger import append as ledger
from loyalty.ledger import movements
from loyalty.ledger.as_of import happened, replay
from loyalty.ledger.entry import SEQUENCE_BITS, Draft, Head, business_key, request_digest
from loyalty.ledger.heads import head_lookup, head_of, read_head_at, read_movements
from loyalty.ledger.state import State
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.tiers import as_of, engine
from loyalty.tiers.engine import FACET, Basis, Downgrade, Level, Scheme, Standing, Transition, Window
from loyalty.tiers.model import LevelBody, TierScheme, TiersNotPublished

COLLECTION = "tiers"
INDEXES = {COLLECTION: [IndexModel([("_id.program", ASCENDING), ("_id.version", DESCENDING)], name="version")]}

_LARGEST_VERSION = 2**31 - 1
_MOST_TRANSITIONS = 1 << 31

# What is current, by database and program.
_cache: TtlCache[tuple[str, str], Scheme] = TtlCache()
# The programs that had none a moment ago: most never have any, and must not be asked for them at every event.
_without: TtlCache[tuple[str, str], bool] = TtlCache()


@dataclass(frozen=True, slots=True)
class Version:
    """A published version. It never changes."""

    program: str
    version: int
    scheme: TierScheme
    published_at: datetime
    published_by: str

    @staticmethod
    def from_document(document: dict[str, Any]) -> Version:
        """The version that a document of `tiers` holds."""
        return Version(
            program=document["_id"]["program"],
            version=document["_id"]["version"],
            scheme=TierScheme.model_validate(document["scheme"]),
            published_at=document["published_at"],
            published_by=document["published_by"],
        )


# -- schemes ----------------------------------------------------------------------------------------------------------


def publish(
    db: Mongo,
    program: Program,
    scheme: TierScheme,
    *,
    expected_version: int | None,
    published_by: str,
    clock: Clock,
) -> Version:
    """The next version, in force from now on (within 5 s on every node).

    `expected_version` is the current one; None only for the first. ValidationFailed lists what is wrong with the
    scheme, PreconditionRequired and PreconditionFailed say that another version is current.
    """
    found = defects(scheme, program)
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)
    newest = latest(db, program.id)
    current_version = newest.version if newest else 0
    if newest is not None and expected_version is None:
        raise PreconditionRequired(f'Version {newest.version} is current. Send If-Match: "v{newest.version}".')
    if (expected_version or 0) != current_version:
        raise PreconditionFailed(f"Version {current_version} is current. Read it again.")
    # Instants of publication order the versions, also where the clocks of two nodes do not agree.
    published_at = max(clock(), newest.published_at) if newest else clock()
    version = Version(program.id, current_version + 1, scheme, published_at, published_by)
    document: Document = {
        "_id": {"program": version.program, "version": version.version},
        "scheme": scheme.model_dump(mode="json"),
        "published_at": version.published_at,
        "published_by": published_by,
    }
    try:
        db[COLLECTION].insert_one(document)
    except DuplicateKeyError:
        raise PreconditionFailed("Another version was published in this moment. Read it again.") from None
    _cache.drop((db.name, program.id))
    _without.drop((db.name, program.id))
    return version


def latest(db: Mongo, program_id: str) -> Version | None:
    """The current version, or None before the first."""
    found = db[COLLECTION].find({"_id.program": program_id}).sort("_id.version", DESCENDING).limit(1)
    return next((Version.from_document(document) for document in found), None)


def level_ids(db: Mongo, program_id: str) -> list[str] | None:
    """The levels of the current version; None before the first, when nobody can say what they will be called."""
    newest = latest(db, program_id)
    return None if newest is None else [level.id for level in newest.scheme.levels]


def read(db: Mongo, program_id: str, version: int) -> Version:
    """One version. NotFound when there is none of that number."""
    document = None
    if 0 < version <= _LARGEST_VERSION:
        document = db[COLLECTION].find_one({"_id.program": program_id, "_id.version": version})
    if document is None:
        raise NotFound(f"There is no version {version} of the tiers.")
    return Version.from_document(document)


def read_at(db: Mongo, program_id: str, instant: datetime) -> Version:
    """The version that was current at the instant. NotFound before the first."""
    wanted: Document = {"_id.program": program_id, "published_at": {"$lte": instant}}
    for document in db[COLLECTION].find(wanted).sort("_id.version", DESCENDING).limit(1):
        return Version.from_document(document)
    raise NotFound("No tiers had been published by then.")


def list_versions(db: Mongo, program_id: str, *, limit: int, after: int | None) -> list[Version]:
    """Up to `limit` versions, newest first, beginning below the version `after`."""
    wanted: Document = {"_id.program": program_id}
    if after is not None:
        wanted["_id.version"] = {"$lt": after}
    found = db[COLLECTION].find(wanted).sort("_id.version", DESCENDING).limit(limit)
    return [Version.from_document(document) for document in found]


def current(db: Mongo, program: Program) -> Scheme | None:
    """The current scheme with those before it; None before the first. At most 5 s old, either of them."""
    cache_key = (db.name, program.id)
    known = _cache.get(cache_key)
    if known is None and not _without.get(cache_key):
        known = load(db, program)
        if known is None:
            _without.put(cache_key, True)
        else:
            _cache.put(cache_key, known)
    return known


def load(db: Mongo, program: Program) -> Scheme | None:
    """The scheme that is current at this moment, with those before it."""
    found = db[COLLECTION].find({"_id.program": program.id}).sort("_id.version", ASCENDING)
    return compile_schemes([Version.from_document(document) for document in found], program.currency)


def compile_schemes(versions: Sequence[Version], currency: str) -> Scheme | None:
    """The last of the versions, which are all there are in their order, ready to use; None for none."""
    scheme: Scheme | None = None
    for version in versions:
        scheme = compile_scheme(
            version.scheme, version.version, currency, published_at=version.published_at, previous=scheme
        )
    return scheme


def compile_scheme(
    body: TierScheme, version: int, currency: str, *, published_at: datetime, previous: Scheme | None = None
) -> Scheme:
    """The scheme with its thresholds in minor units where spend counts; it must have passed `defects`."""
    window = Window(**body.window.model_dump()) if body.window is not None else Window()
    levels = [
        Level(level.id, level.name, _threshold(level.threshold, currency), _milli(level.earn_multiplier))
        for level in body.levels
    ]
    return Scheme(
        version,
        Basis(**body.basis.model_dump()),
        window,
        tuple(levels),
        Downgrade(body.downgrade.to, body.downgrade.grace_days),
        published_at,
        previous,
    )


def scheme_at(scheme: Scheme | None, instant: datetime) -> Scheme | None:
    """The version that was current at `instant`, of `scheme` and those before it."""
    while scheme is not None and scheme.published_at > instant:
        scheme = scheme.previous
    return scheme


def defects(scheme: TierScheme, program: Program) -> list[dict[str, str]]:
    """Everything that is wrong with the scheme for the program, as `{pointer, code, detail}`."""
    found: list[dict[str, str]] = []

    def add(pointer: str, code: str, detail: str) -> None:
        found.append({"pointer": pointer, "code": code, "detail": detail})

    basis = scheme.basis
    if basis.type in ("earned", "balance") and basis.wallet not in program.policies.wallets:
        wallets = ", ".join(sorted(program.policies.wallets))
        add("/basis/wallet", "unknown_wallet", f"The program has no wallet {basis.wallet}. It has {wallets}.")
    if basis.type == "balance" and scheme.window is not None:
        add("/window", "invalid_value", "A balance is what it is now: leave the window out.")
    if basis.type != "balance" and scheme.window is None:
        add("/window", "missing", "Say which days count, for instance the calendar year.")
    seen: set[str] = set()
    before: int | None = None
    for index, level in enumerate(scheme.levels):
        if level.id in seen:
            add(f"/levels/{index}/id", "duplicate", f"Another level is called {level.id}.")
        seen.add(level.id)
        if _milli(level.earn_multiplier) == 0:
            add(f"/levels/{index}/earn_multiplier", "invalid_value", "Multiply by something above zero.")
        threshold = _checked_threshold(level, basis.type, program.currency)
        if isinstance(threshold, str):
            add(f"/levels/{index}/threshold", "invalid_value", threshold)
        elif index == 0 and threshold != 0:
            add("/levels/0/threshold", "invalid_value", "The lowest level is everybody's: its threshold is 0.")
        elif before is not None and threshold <= before:
            add(f"/levels/{index}/threshold", "invalid_value", "Thresholds grow from one level to the next.")
        before = threshold if isinstance(threshold, int) else before
    return found


def _checked_threshold(level: LevelBody, basis: str, currency: str) -> int | str:
    """The threshold, or what is wrong with it."""
    if (basis == "spend") != isinstance(level.threshold, str):
        return (
            'Spend counts: give an amount as text, such as "500.00".'
            if basis == "spend"
            else "Give a whole number, not an amount."
        )
    try:
        return _threshold(level.threshold, currency)
    except MoneyError as error:
        return f"{error}."


def _threshold(threshold: int | str, currency: str) -> int:
    return to_minor(threshold, currency) if isinstance(threshold, str) else threshold


def _milli(multiplier: str) -> int:
    whole, _, fraction = multiplier.partition(".")
    return int(whole) * 1000 + int(fraction.ljust(3, "0"))


# -- members ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member stands at an instant, by the scheme of that instant."""

    member: Member
    at: datetime
    scheme: Scheme
    standing: Standing


@dataclass(frozen=True, slots=True)
class Change:
    """A change of level (as in the evidence), and the `_id` of the entry that holds it; None if none does yet."""

    transition: Document
    entry: int | None


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock that was set or released: the entry, and where the member stands after it."""

    entry: Document
    place: Place
    replayed: bool


def joined_on(member: Member, calendar: Calendar) -> date:
    """The local day on which the member joined, from which anniversaries count."""
    return calendar.day(member.created_at)


def place(
    db: Mongo,
    program: Program,
    member: str,
    *,
    now: datetime,
    at: datetime | None = None,
    happened_at: datetime | None = None,
) -> Place:
    """Where the member stands now, or stood at `at` by what was known then.

    With `happened_at` by what had happened by that instant (as known now or at `at`), whenever it was told: see
    `tiers.as_of`. NotFound if there were no tiers.
    """
    found, head = _find_with_head(db, program.id, member)
    instant = happened_at or at or now
    scheme = scheme_at(current(db, program), instant)
    if scheme is None:
        raise NotFound("There were no tiers at that time. Publish some with POST /v1/tiers/versions.")
    if happened_at is not None:
        return _place_as_happened(db, program, found, scheme, happened_at, known=at)
    if at is not None:
        head = read_head_at(db.ledger, head.member, at)
    return _place(program, found, head, scheme, instant)


def _place_as_happened(
    db: Mongo, program: Program, member: Member, scheme: Scheme, instant: datetime, *, known: datetime | None
) -> Place:
    calendar = Calendar.of(program.timezone)
    joined = joined_on(member, calendar)
    chain: Document = {"_id": {"$gt": member.number << SEQUENCE_BITS, "$lt": (member.number + 1) << SEQUENCE_BITS}}
    if known is not None:
        chain["recorded_at"] = {"$lte": known}
    entries = db.ledger.find(chain, as_of.FIELDS, batch_size=1000)
    state = State()
    if scheme.looks_at_balance:
        moved = happened(replay(read_movements(db.ledger, member.number, known=known), instant), instant)
        facet, state = as_of.followed(moved, entries, scheme, calendar, instant, joined_on=joined)
    else:
        facet = as_of.happened(entries, scheme, calendar, instant, joined_on=joined)
    standing = engine.standing(facet, scheme, calendar, instant, joined_on=joined, state=state)
    return Place(member, instant, scheme, standing)


def history(
    db: Mongo, program: Program, member: str, *, now: datetime, limit: int, after: tuple[int, int] | None
) -> list[tuple[tuple[int, int], Change]]:
    """Up to `limit` changes of the member's level, newest first, each with its place in the order.

    `after` is the place where the page before ended. Changes that time has made and no entry holds yet come first.
    """
    found, head = _find_with_head(db, program.id, member)
    first, last = found.number << SEQUENCE_BITS, (found.number + 1) << SEQUENCE_BITS
    before = after or (last, _MOST_TRANSITIONS)
    changes: list[tuple[tuple[int, int], Change]] = []

    def add(entry: int, transitions: Sequence[Document]) -> None:
        for index in range(len(transitions) - 1, -1, -1):
            if (entry, index) < before:
                changes.append(((entry, index), Change(transitions[index], None if entry == last else entry)))

    scheme = current(db, program)
    if scheme is not None:
        add(last, [transition.document() for transition in _settled(program, found, head, scheme, now)[2]])
    chain = {"_id": {"$gt": first, "$lt": min(before[0] + 1, last)}, "evidence.tier": {"$exists": True}}
    for entry in db.ledger.find(chain, {"evidence.tier": 1}).sort("_id", DESCENDING):
        if len(changes) >= limit:
            break
        add(int(entry["_id"]), entry["evidence"]["tier"])
    return changes[:limit]


def set_lock(
    db: Mongo,
    program: Program,
    member: str,
    *,
    level: str | None,
    reason: str,
    key: tuple[str, ...],
    by: str,
    clock: Clock,
) -> Locked:
    """Set the member's level and lock it there, or release it (`level` is None).

    It is an entry of the ledger; `key` makes it happen once, and `by` is who asks. NotFound, TiersNotPublished,
    ValidationFailed for a level that there is not, IdempotencyConflict.
    """
    found, head = _find_with_head(db, program.id, member)
    scheme = load(db, program)
    if scheme is None:
        raise TiersNotPublished("There are no levels. Publish some with POST /v1/tiers/versions.")
    if level is not None and level not in scheme.ranks:
        detail = f"There is no level {level}. There are {', '.join(scheme.ranks)}."
        errors = [{"pointer": "/level", "code": "unknown_level", "detail": detail}]
        raise ValidationFailed("Correct the fields that `errors` names.", errors=errors)
    calendar = Calendar.of(program.timezone)
    joined = joined_on(found, calendar)

    def decide(state: State, _: int, now: datetime) -> Draft:
        before = state.facets.get(FACET)
        if level is not None:
            facet, transitions = engine.lock(before, scheme, calendar, now, level=level, joined_on=joined, state=state)
        else:
            facet, transitions = engine.release(before, scheme, calendar, now, joined_on=joined, state=state)
        evidence: Document = {"reason": reason, "by": by, "lock": level}
        if transitions:
            evidence["tier"] = [transition.document() for transition in transitions]
        return Draft("tier", now, (), evidence, facets={FACET: facet})

    request = request_digest({"lock": level, "member": member, "reason": reason})
    operation = ledger.Operation(program.id, found.number, (business_key(program.id, *key),), request, decide)
    try:
        (outcome,) = ledger.append(db.ledger, [operation], clock=clock, heads={found.number: head})
    except ledger.Contention:
        raise Unavailable("Too many writers want the same member. Send the request again.") from None
    if outcome.status == "conflict" or outcome.entry is None:
        raise IdempotencyConflict("The Idempotency-Key was used with another request.")
    entry = outcome.entry
    recorded_at = entry["recorded_at"]
    then = scheme_at(scheme, recorded_at) or scheme
    standing = _place(program, found, Head.of(entry), then, recorded_at)
    return Locked(entry, standing, outcome.status == "replayed")


def _settled(
    program: Program, member: Member, head: Head, scheme: Scheme, at: datetime
) -> tuple[Document | None, State, list[Transition]]:
    """The facet and the state as time has made them by `at`, and what it has done to the level since the last entry."""
    calendar = Calendar.of(program.timezone)
    joined = joined_on(member, calendar)
    facet = head.state.facets.get(FACET)
    transitions: list[Transition] = []
    state = movements.settle(head.state, at)
    if scheme.looks_at_balance and head.recorded_at is not None:
        # The entry decided the balance; a feature that knows nothing of tiers may have made it.
        then = min(max(head.recorded_at, scheme.since), at)
        facet, transitions = engine.settle(facet, scheme, calendar, then, joined_on=joined, state=head.state)
    if facet is not None:
        facet, later = engine.settle(facet, scheme, calendar, at, joined_on=joined, state=state)
        transitions += later
    return facet, state, transitions


def _place(program: Program, member: Member, head: Head, scheme: Scheme, at: datetime) -> Place:
    calendar = Calendar.of(program.timezone)
    facet, state, _ = _settled(program, member, head, scheme, at)
    standing = engine.standing(facet, scheme, calendar, at, joined_on=joined_on(member, calendar), state=state)
    return Place(member, at, scheme, standing)


def _find_with_head(db: Mongo, program: str, text: str) -> tuple[Member, Head]:
    name = members.reference(text)
    found = as_of_now(db, "ledger", lambda lasting: members.resolve(lasting, program, [name], stages=head_lookup()))
    member = found.get(name)
    if member is None:
        raise NotFound(f"There is no member {text!r} in this program.")
    return member, head_of(member.number, member.found)
