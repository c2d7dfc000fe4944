"""The members of the replica set as the backup host sees them, and which of them is asked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime
from loyalty.backup.settings import Member, Settings, read_secret

Client = MongoClient[dict[str, Any]]


class Standing(NamedTuple):
    """A member that serves reads now."""

    member: Member
    role: Literal["primary", "secondary"]
    is_hidden: bool
    is_passive: bool
    """Whether it never becomes primary (priority 0)."""
    top: ClusterTime
    """The last operation that it has."""
    majority: ClusterTime
    """The last operation of which it knows that a majority has it: it can never be rolled back. Zero right after the
    member has started."""


def connect(settings: Settings, member: Member, *, patience_s: float = 60) -> Client:
    """A client of that member alone, which gives up on an answer after `patience_s`."""
    database = settings.database
    options: dict[str, Any] = {}
    if database.user is not None:
        options |= {"username": database.user, "authSource": "admin"}
        options["password"] = read_secret(database.password_file) if database.password_file else None
    if database.ca_file is not None:
        options |= {"tls": True, "tlsCAFile": str(database.ca_file)}
    return MongoClient(
        f"mongodb://{member.address}",
        directConnection=True,
        appname="loyalty-backup",
        connectTimeoutMS=3000,
        serverSelectionTimeoutMS=3000,
        socketTimeoutMS=int(patience_s * 1000),
        **options,
    )


def standings(settings: Settings) -> list[Standing]:
    """The members that answer and hold data. BackupError when there is none, or one belongs to another set."""
    with ThreadPoolExecutor(len(settings.members)) as together:
        found = list(together.map(lambda member: _standing(settings, member), settings.members))
    fit = [standing for standing in found if isinstance(standing, Standing)]
    if not fit:
        raise BackupError(
            f"No member of the replica set serves reads. {' '.join(map(str, found))}",
            "Check the unit mongod on them, and whether this host reaches their port.",
        )
    return fit


def in_order(found: Sequence[Standing], *, most_lag_s: float, favourite: str | None = None) -> list[Standing]:
    """Whom to ask first: a secondary that keeps up, the favourite before others; hidden, then priority 0, then the
    one that is least behind. A primary only when there is no such secondary."""
    newest = max(standing.top for standing in found)
    fit = [one for one in found if one.role == "primary" or newest.t - one.top.t <= most_lag_s]
    return sorted(
        fit,
        key=lambda one: (
            one.role == "primary",
            one.member.address != favourite,
            not one.is_hidden,
            not one.is_passive,
            newest.t - one.top.t,
        ),
    )


def _standing(settings: Settings, member: Member) -> Standing | str:
    """How the member stands, or a sentence on why nothing can be read there."""
    try:
        with connect(settings, member, patience_s=5) as client:
            hello = client.admin.command("hello")
    except PyMongoError as error:
        reason = str(error).partition(", full error")[0].partition(", Timeout:")[0].partition(" (configured")[0]
        return f"{member.address}: {reason}."
    if not (hello.get("isWritablePrimary") or hello.get("secondary")):
        return f"{member.address} starts, recovers or has left the set."
    if hello["setName"] != settings.database.replica_set:
        raise BackupError(
            f"{member.address} belongs to the replica set {hello['setName']}, not to {settings.database.replica_set}.",
            "Correct the settings: database.replica_set and members.",
        )
    last = hello["lastWrite"]
    return Standing(
        member=member,
        role="primary" if hello.get("isWritablePrimary") else "secondary",
        is_hidden=bool(hello.get("hidden")),
        is_passive=bool(hello.get("passive") or hello.get("hidden")),
        top=ClusterTime.of(last["opTime"]["ts"]),
        majority=ClusterTime.of(last["majorityOpTime"]["ts"]) if "majorityOpTime" in last else ClusterTime(0, 0),
    )
