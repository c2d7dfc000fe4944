"""What can be done with programs. Called alike by HTTP, the command line and tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymongo import IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from loyalty.infra.cache import TtlCache
from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.money import MoneyError, to_minor
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import NotFound, ValidationFailed
from loyalty.programs.model import Program, ProgramExists
from loyalty.programs.policies import DEFAULTS, Policies

COLLECTION = "programs"
INDEXES: dict[str, list[IndexModel]] = {COLLECTION: []}

_cache: TtlCache[tuple[str, str], Program] = TtlCache()


def create(
    db: Mongo,
    *,
    id: str,
    name: str,
    currency: str,
    clock: Clock,
    timezone: str = "UTC",
    backdating_days: int | None = None,
    auto_enrol: bool = True,
    mode: str = "live",
    policies: Policies = DEFAULTS,
) -> Program:
    """Create a program. ProgramExists when the id is taken, ValidationFailed when the policies do not suit it."""
    check(policies, currency)
    program = Program(
        id=id,
        name=name,
        currency=currency,
        timezone=timezone,
        backdating_days=backdating_days,
        auto_enrol=auto_enrol,
        mode=mode,
        created_at=clock(),
        version=1,
        policies=policies,
    )
    try:
        db[COLLECTION].insert_one(program.to_document())
    except DuplicateKeyError:
        raise ProgramExists(f"There is a program {id!r} already. Choose another id.") from None
    return program


def get(db: Mongo, program_id: str) -> Program:
    """The program, at most 5 s old. NotFound when there is none."""
    cache_key = (db.name, program_id)
    program = _cache.get(cache_key)
    if program is None:
        program = read(db, program_id)
        _cache.put(cache_key, program)
    return program


def read(db: Mongo, program_id: str) -> Program:
    """The program as it is now. NotFound when there is none."""
    document = db[COLLECTION].find_one({"_id": program_id})
    if document is None:
        raise NotFound(f"There is no program {program_id!r}.")
    return Program.from_document(document)


def change(db: Mongo, program_id: str, *, expected_version: int | None, changes: dict[str, Any]) -> Program:
    """Change fields of a program. PreconditionFailed when it is not at `expected_version` (None: whichever it is).

    ValidationFailed when new policies do not suit it: a wallet that was once named may hold points, so it stays.
    """
    wanted: dict[str, Any] = {"_id": program_id}
    if expected_version is not None:
        wanted["version"] = expected_version
    policies = changes.get("policies")
    if policies is not None:
        before = read(db, program_id)
        check(policies, before.currency, wallets=before.policies.wallets)
        changes = {**changes, "policies": policies.model_dump(mode="json")}
    document = db[COLLECTION].find_one_and_update(
        wanted,
        {"$set": changes, "$inc": {"version": 1}} if changes else {"$inc": {"version": 1}},
        return_document=ReturnDocument.AFTER,
    )
    _cache.drop((db.name, program_id))
    if document is None:
        current = read(db, program_id)
        raise PreconditionFailed(f"The program is at version {current.version} now. Read it again.")
    return Program.from_document(document)


def check(policies: Policies, currency: str, *, wallets: Iterable[str] = ()) -> None:
    """ValidationFailed lists what no schema can say of policies: `wallets` are those that there are already."""
    found = []
    for name in sorted(set(wallets) - set(policies.wallets)):
        detail = f"Members may have points in {name}. Keep the wallet; it may be made unspendable."
        found.append({"pointer": f"/policies/wallets/{name}", "code": "missing", "detail": detail})
    payment = policies.points_payment
    if payment is not None:
        where = "/policies/points_payment"
        try:
            if to_minor(payment.amount, currency) == 0:
                found.append(
                    {"pointer": f"{where}/amount", "code": "invalid_value", "detail": "It must be above zero."}
                )
        except MoneyError as error:
            found.append({"pointer": f"{where}/amount", "code": "invalid_value", "detail": f"{error}."})
        if payment.wallet not in policies.wallets or not policies.wallets[payment.wallet].spendable:
            detail = "Name one of the spendable wallets."
            found.append({"pointer": f"{where}/wallet", "code": "invalid_value", "detail": detail})
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)
