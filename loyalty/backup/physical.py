"""Full and incremental: a member's data folder as of one moment.

Both hold everything, and each can be restored without the others. What makes one incremental is that it goes into the
repository of the chain that its full began, which keeps only the blocks that it does not have.

A member may be ahead of what a majority has, and what only it has may be rolled back. So a copy is believed only when
a majority has the last entry that it holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Literal

from pymongo.errors import PyMongoError

from loyalty import __version__
from loyalty.backup.errors import BackupError, Gone
from loyalty.backup.manifest import (
    Archive,
    Catalogue,
    Chain,
    Target,
    flush_folder,
    leftovers,
    read_catalogue,
    remove,
    write_manifest,
)
from loyalty.backup.members import Standing, connect, in_order, standings
from loyalty.backup.oplog import Diverged, entry_at
from loyalty.backup.repository import Repository
from loyalty.backup.settings import Settings, read_secret
from loyalty.backup.source import Copy, Facts, Progress, SourceError, discard, physical
from loyalty.backup.target import hold, require_room

_MAJORITY_WITHIN_S = 120


class Lost(Gone):
    """The ledger, which only grows, has less than half of what is archived: this is hardly the database that was."""


def full(settings: Settings, target: Target, *, accept_loss: bool = False, progress: Progress = discard) -> Archive:
    """Begin a new chain. BackupError when that fails; nothing of it is then left.

    Lost where an empty database stands in the place of the one that is archived: with a chain of it the good ones would
    be let go one after the other, and `latest` would be nothing. `accept_loss` says that it is meant.
    """
    with hold(target, "A full"):
        return _take(settings, target, None, progress, accept_loss=accept_loss)


def incremental(settings: Settings, target: Target, *, progress: Progress = discard) -> Archive:
    """Add to the newest chain; begin a new one where there is none, or the server's version is another since."""
    with hold(target, "An incremental"):
        chains = read_catalogue(target).chains
        return _take(settings, target, chains[-1] if chains else None, progress)


def _take(
    settings: Settings, target: Target, chain: Chain | None, progress: Progress, *, accept_loss: bool = False
) -> Archive:
    began = time.monotonic()
    remove(leftovers(target))
    catalogue = read_catalogue(target)
    passphrase = read_secret(settings.passphrase_file)
    favourite = chain.archives[-1].server if chain else None
    with _copy(settings, favourite, progress) as (standing, copy):
        facts = copy.facts
        if chain is not None and not _continues(chain, facts):
            chain = None
        kind: Literal["full", "incremental"] = "incremental" if chain else "full"
        known = _with_this_state(chain, facts) if chain else None
        if known is not None:
            return known
        _require_majority(settings, standing, facts)
        if not accept_loss:
            _refuse_loss(catalogue, f"{settings.database.name}.ledger", facts)
        require_room(settings, target, _guess(catalogue, kind, facts.bytes))
        name = _unused(target, catalogue, kind, facts)
        chain_id = chain.id if chain else name.removesuffix("-full")
        repository = Repository(target.repository(chain_id), passphrase)
        with _new_chain(target, chain_id, repository) if chain is None else _cleaned(chain, repository):
            imported = repository.import_tar(name, copy.chunks)
            archive = Archive(
                kind=kind,
                id=name,
                chain=chain_id,
                predecessor=chain.archives[-1].id if chain else None,
                from_=facts.top,
                to=facts.top,
                at=facts.top.instant.isoformat(),
                server=standing.member.address,
                role=facts.role,
                server_version=facts.server_version,
                fcv=facts.fcv,
                replica_set=facts.replica_set,
                counts=facts.counts,
                seal=facts.seal,
                last_sha256=facts.top_sha256,
                bytes=facts.bytes,
                stored_bytes=imported.stored_bytes,
                sha256=imported.id,
                took_s=round(time.monotonic() - began, 3),
                locked_s=facts.locked_s,
                agent=__version__,
            )
            write_manifest(target, archive)
    return archive


@contextmanager
def _copy(settings: Settings, favourite: str | None, progress: Progress) -> Iterator[tuple[Standing, Copy]]:
    """A copy of the first member that sends one. SourceError with what each said when none does."""
    most_lag_s = settings.limits.most_lag_seconds
    reasons = []
    with ExitStack() as stack:
        for standing in in_order(standings(settings), most_lag_s=most_lag_s, favourite=favourite):
            try:
                copy = stack.enter_context(physical(settings, standing.member, progress=progress))
            except SourceError as error:
                reasons.append(error.problem)
                continue
            yield standing, copy
            return
    raise SourceError(" ".join(reasons), "Remedy what the members say, then try again.")


def _continues(chain: Chain, facts: Facts) -> bool:
    """Whether this state belongs to the same history and format as the chain."""
    last = chain.archives[-1]
    return facts.top >= last.to and (facts.server_version, facts.fcv, facts.replica_set) == (
        last.server_version,
        last.fcv,
        last.replica_set,
    )


def _refuse_loss(catalogue: Catalogue, ledger: str, facts: Facts) -> None:
    last = max(catalogue.physical, key=lambda archive: archive.to, default=None)
    there, archived = facts.counts.get(ledger, 0), last.counts.get(ledger, 0) if last else 0
    if last is not None and there * 2 < archived:
        raise Lost(
            f"The ledger has {there:,} entries; the archive {last.id} has {archived:,}.",
            "Is this the database, or an empty one in its place? What is archived can be restored: ./appliance restore "
            "--to latest. If so much is gone on purpose: loyalty-backup full --accept-loss",
        )


def _with_this_state(chain: Chain, facts: Facts) -> Archive | None:
    """The archive that holds this very state already, when nothing was written since."""
    last = chain.archives[-1]
    return last if (last.to, last.last_sha256) == (facts.top, facts.top_sha256) else None


def _guess(catalogue: Catalogue, kind: str, size: int) -> int:
    """What an archive will take of the target, going by the last one of its kind; of the first nobody knows."""
    earlier = [archive for archive in catalogue.physical if archive.kind == kind and archive.bytes]
    return size * earlier[-1].stored_bytes // earlier[-1].bytes if earlier else 0


def _unused(target: Target, catalogue: Catalogue, kind: str, facts: Facts) -> str:
    """An id after the second of the state, numbered from the second one of that second on."""
    taken = {archive.id for archive in catalogue.physical} | {
        f"{folder.name}-full" for folder in target.chains.iterdir()
    }
    stamp = facts.top.stamp
    stamps = (f"{stamp}.{number}" if number > 1 else stamp for number in count(1))
    return next(name for each in stamps if (name := f"{each}-{kind}") not in taken)


@contextmanager
def _new_chain(target: Target, chain: str, repository: Repository) -> Iterator[None]:
    folder = target.chains / chain
    folder.mkdir(mode=0o700)
    flush_folder(target.chains)
    try:
        repository.create()
        yield
    except BaseException:
        remove([folder])
        raise


@contextmanager
def _cleaned(chain: Chain, repository: Repository) -> Iterator[None]:
    """Without the archives of runs that died before they had a manifest, or failed."""
    known = {archive.id for archive in chain.archives}

    def clean() -> None:
        repository.delete([name for name in repository.archives() if name not in known])

    clean()
    try:
        yield
    except BackupError:
        with suppress(BackupError):
            clean()
        raise


def _require_majority(settings: Settings, source: Standing, facts: Facts) -> None:
    """Wait until a majority has what the copy ends with. Diverged when it was rolled back instead."""
    deadline = time.monotonic() + _MAJORITY_WITHIN_S
    while time.monotonic() < deadline:
        for standing in _with_majority(settings, facts):
            with suppress(PyMongoError), connect(settings, standing.member) as client:
                entry = entry_at(client, facts.top)
                if entry is None or hashlib.sha256(entry).hexdigest() != facts.top_sha256:
                    raise Diverged(
                        f"{source.member.address} held writes that were rolled back after a failover.",
                        "Try again: loyalty-backup full",
                    )
                return
        time.sleep(0.2)  # a poll of the replica set
    raise BackupError(
        f"For {_MAJORITY_WITHIN_S} s no majority of the replica set has what {source.member.address} holds.",
        "Check the replica set: ./appliance status. Then try again.",
    )


def _with_majority(settings: Settings, facts: Facts) -> list[Standing]:
    with suppress(BackupError):
        return [standing for standing in standings(settings) if standing.majority >= facts.top]
    return []
