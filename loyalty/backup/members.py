"""The members of the replica set as the backup host sees them, and which of them is asked."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone
from typing import Any, Literal, NamedTuple

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from loyalty.backup.errors import BackupError, Gone
from loyalty.backup.manifest import ClusterTime
from loyalty.backup.settings import Member, Settings, read_secret
from loyalty.infra.clock import system_clock

Client = MongoClient[dict[str, Any]]

_PROBE_S = 5


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
    clock_ahead: timedelta = timedelta()
    """By how much its clock is ahead of this host's."""


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
    """The members that answer and hold data. BackupError when there is none, or one belongs to another set; Gone when
    none of them can hold any."""
    with ThreadPoolExecutor(len(settings.members)) as together:
        found = list(together.map(lambda member: _standing(settings, member), settings.members))
    fit = [standing for standing in found if isinstance(standing, Standing)]
    if not fit:
        failed = BackupError if any(_is_there(settings, member) for member in settings.members) else Gone
        raise failed(
            f"No member of the replica set serves reads. {' '.join(map(str, found))}",
            "Check the unit mongod on them, and whether this host reaches their port.",
        )
    return fit


def in_order(found: Sequence[Standing], *, most_lag_s: float, favourite: str | None = None) -> list[Standing]:
    """Whom to ask first: a secondary that keeps up, the favourite before others; hidden, then one whose host serves no
    requests, then priority 0, then the one that is least behind. A primary only when there is no such secondary."""
    newest = max(standing.top for standing in found)
    fit = [one for one in found if one.role == "primary" or newest.t - one.top.t <= most_lag_s]
    return sorted(
        fit,
        key=lambda one: (
            one.role == "primary",
            one.member.address != favourite,
            not one.is_hidden,
            one.member.beside_application,
            not one.is_passive,
            newest.t - one.top.t,
        ),
    )


def _standing(settings: Settings, member: Member) -> Standing | str:
    """How the member stands, or a sentence on why nothing can be read there."""
    try:
        with connect(settings, member, patience_s=5) as client:
            hello = client.admin.command("hello")
            clock_ahead = hello["localTime"].replace(tzinfo=timezone.utc) - system_clock()
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
        clock_ahead=clock_ahead,
    )


def _is_there(settings: Settings, member: Member) -> bool:
    """Whether a member of a set may be behind an address where none serves us. It is not where nothing listens, nor
    where what does was started on an empty folder: that belongs to no set. Whoever hangs or cannot be reached may be.
    """
    host, _, port = member.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
        # Not as our user, whom an empty one does not know.
        nobody = settings.database.model_copy(update={"user": None})
        with connect(settings.model_copy(update={"database": nobody}), member, patience_s=_PROBE_S) as client:
            return "setName" in client.admin.command("hello")
    except ConnectionRefusedError:
        return False
    except (OSError, PyMongoError):
        return True
