"""Reading what is kept, as a restore would, before a restore has to.

Every archive is read when it has arrived. Each day the newest chain, dump, files and copy of the site's folder are read
again, and of all that is older a part, so that in time everything is. What fails is noted: retention relies on it no
more, a restore goes around it, and an alarm stands until it is gone or sound.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import bson
import msgspec
from pyrage.x25519 import Identity  # type: ignore[import-untyped]

from loyalty.backup import files
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, Catalogue, Chain, ClusterTime, Target, read_catalogue, write_whole
from loyalty.backup.raw import NotBson, documents
from loyalty.backup.records import clear_alarm, raise_alarm
from loyalty.backup.repository import Repository, RepositoryError
from loyalty.backup.retention import Key
from loyalty.backup.sealed import Damaged, read_identity, read_sealed, sha256_of
from loyalty.backup.settings import Settings, read_secret
from loyalty.infra.clock import system_clock

_T = TypeVar("_T")

ROUND_DAYS: Final = 30
"""In so many days the whole log is read once."""

_SHOWN: Final = 3  # of many problems, in an alarm


class Result(NamedTuple):
    """What came of reading an archive. `problem` is a sentence, or None when it is whole."""

    kind: str
    id: str
    problem: str | None = None

    @property
    def key(self) -> str:
        """As it stands in the state."""
        return f"{self.kind}/{self.id}"


class State(msgspec.Struct):
    """What is known from reading. Keys are KIND/ID."""

    read_at: dict[str, str] = {}
    """When each was last read, ISO 8601, UTC. Slices are not named one by one: "log" is when any was."""
    log_to: str | None = None
    """The moment, in hexadecimal, up to which the log was read."""
    damaged: dict[str, str] = {}
    """What is not whole, with what is wrong."""


class Verifier:
    """Reads archives of a target. `passphrase` opens its repositories, `identity` log and dumps."""

    def __init__(self, target: Target, *, passphrase: str, identity: Identity) -> None:
        self._target = target
        self._passphrase = passphrase
        self._identity = identity

    @staticmethod
    def of(settings: Settings, target: Target) -> Verifier:
        """With the secrets that the settings name."""
        passphrase = read_secret(settings.passphrase_file)
        return Verifier(target, passphrase=passphrase, identity=read_identity(settings.identity_file))

    def archive(self, archive: Archive, slices: Iterable[Archive] = ()) -> Result:
        """Read one archive. Of `slices`, the one before a slice shows whether it joins."""
        if archive.is_physical:
            return self._physical(archive)
        if archive.kind == "log":
            return self.slice(archive, _by_id(slices))
        if archive.kind == "site":
            return self.site(archive)
        return self.dump(archive) if archive.kind == "dump" else self.files(archive)

    def daily(self, catalogue: Catalogue, state: State, *, now: datetime) -> Iterator[Result]:
        """The newest of each kind, what was never read, and a part of the rest."""
        by_id = _by_id(catalogue.slices)
        read_to = ClusterTime.from_hex(state.log_to) if state.log_to else ClusterTime(0, 0)
        for piece in catalogue.slices:
            if piece.to > read_to or _turn(piece.id) == now.toordinal() % ROUND_DAYS:
                yield self.slice(piece, by_id)
        for chain in newest_and_longest_unread(
            catalogue.chains, [f"chain/{one.id}" for one in catalogue.chains], state
        ):
            yield from self.chain(chain)
        for dump in newest_and_longest_unread(catalogue.dumps, [f"dump/{one.id}" for one in catalogue.dumps], state):
            yield self.dump(dump)
        for one in newest_and_longest_unread(catalogue.files, [f"files/{one.id}" for one in catalogue.files], state):
            yield self.files(one)
        for one in newest_and_longest_unread(catalogue.site, [f"site/{one.id}" for one in catalogue.site], state):
            yield self.site(one)
        if now.toordinal() % ROUND_DAYS == 0:
            yield from self.files_repository()

    def everything(self, catalogue: Catalogue) -> Iterator[Result]:
        """All that is kept."""
        by_id = _by_id(catalogue.slices)
        for piece in catalogue.slices:
            yield self.slice(piece, by_id)
        for chain in catalogue.chains:
            yield from self.chain(chain)
        for dump in catalogue.dumps:
            yield self.dump(dump)
        for one in catalogue.files:
            yield self.files(one)
        for one in catalogue.site:
            yield self.site(one)
        yield from self.files_repository()

    def chain(self, chain: Chain) -> Iterator[Result]:
        """Read a whole repository. When that fails, each of its archives, to know which are still whole."""
        try:
            repository = self._repository(chain.id)
            repository.check()
            names = repository.archives()
        except RepositoryError as error:
            yield Result("repository", chain.id, error.problem)
            yield from map(self._physical, chain.archives)
            return
        yield Result("repository", chain.id)
        for archive in chain.archives:
            whole = names.get(archive.id) == archive.sha256
            yield Result(archive.kind, archive.id, None if whole else _not_in(chain.id))
        yield Result("chain", chain.id)

    def slice(self, piece: Archive, others: Mapping[str, Archive]) -> Result:
        """Read a slice of the log: it is as it was written, whole, and joins the one before."""
        return Result("log", piece.id, self._slice_problem(piece, others))

    def dump(self, dump: Archive) -> Result:
        """Read a dump: it has as many documents of each collection as were counted."""
        return Result("dump", dump.id, self._dump_problem(dump))

    def files(self, snapshot: Archive) -> Result:
        """Read every file of a snapshot."""
        return Result("files", snapshot.id, files.in_short(files.mismatches(self._target, snapshot)))

    def site(self, copy: Archive) -> Result:
        """Read a copy of the site's folder. Only the vault's password opens it, which is nowhere here."""
        path = self._target.site_folder(copy)
        try:
            problem = None if sha256_of(path) == copy.sha256 else f"{path} is not as it was written"
        except OSError as error:
            problem = f"{path} cannot be read ({error.strerror})"
        return Result("site", copy.id, problem)

    def files_repository(self) -> Iterator[Result]:
        """Read the second copy of the files."""
        repository = files.files_repository(self._target, self._passphrase)
        if repository.path.exists():
            try:
                repository.check()
            except RepositoryError as error:
                yield Result("repository", "files", error.problem)
            else:
                yield Result("repository", "files")

    def _physical(self, archive: Archive) -> Result:
        chain = archive.chain or ""
        repository = self._repository(chain)
        try:
            repository.read(archive.id)
            problem = None if repository.archives().get(archive.id) == archive.sha256 else _not_in(chain)
        except RepositoryError as error:
            problem = error.problem
        return Result(archive.kind, archive.id, problem)

    def _slice_problem(self, piece: Archive, others: Mapping[str, Archive]) -> str | None:
        path = self._target.slice(piece)
        try:
            if sha256_of(path) != piece.sha256:
                return f"{path} is not as it was written"
            first = last = None
            count = 0
            for entry in documents(read_sealed(path, self._identity)):
                first = first or entry
                last = entry
                count += 1
        except Damaged as error:
            return error.problem
        except NotBson as error:
            return f"{path} holds something else than the log: {error}"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        if first is None or last is None:
            return f"{path} is empty"
        if (_moment(first), _moment(last), count) != (piece.from_, piece.to, piece.entries):
            return f"{path} does not hold what its manifest says"
        if hashlib.sha256(last).hexdigest() != piece.last_sha256:
            return f"{path} ends with another entry than its manifest says"
        before = others.get(piece.predecessor or "")
        if before is not None and hashlib.sha256(first).hexdigest() != before.last_sha256:
            return f"{path} does not begin with the entry that the slice before it ends with"
        return None

    def _dump_problem(self, dump: Archive) -> str | None:
        folder = self._target.dumps / dump.id
        # The counted collections, and what says how to make them.
        for path in sorted({*folder.glob("*.bson.age"), *(folder / f"{name}.bson.age" for name in dump.counts)}):
            try:
                count = sum(1 for _ in documents(read_sealed(path, self._identity)))
            except Damaged as error:
                return error.problem
            except NotBson as error:
                return f"{path} holds something else than documents: {error}"
            except OSError as error:
                return f"{path} cannot be read ({error.strerror})"
            expected = dump.counts.get(path.name.removesuffix(".bson.age"), count)
            if count != expected:
                return f"{path} has {count:,} documents, not {expected:,}"
        return None

    def _repository(self, chain: str) -> Repository:
        return Repository(self._target.repository(chain), self._passphrase)


def read_on_arrival(settings: Settings, target: Target, archives: Sequence[Archive]) -> None:
    """Read what has just been taken. BackupError, and an alarm, when it is not whole.

    Slices that are whole are not noted: where the log is archived all the time there is one every few seconds.
    """
    if not archives:
        return
    verifier = Verifier.of(settings, target)
    results = [verifier.archive(archive, archives) for archive in archives]
    problems = [result for result in results if result.problem]
    if problems or any(archive.kind != "log" for archive in archives):
        note(target, read_catalogue(target), results, now=system_clock())
    if problems:
        raise BackupError(
            f"What was just taken is not whole: {problems[0].problem}.",
            "Check the target's disk, and its cable, then try again.",
        )


def read_state(target: Target) -> State:
    """What is known from reading; nothing if that was lost, and then everything is read again."""
    try:
        return msgspec.json.decode(_state_file(target).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return State()


def damaged(state: State) -> frozenset[Key]:
    """What retention and restore must not rely on."""
    pairs = (key.partition("/") for key in state.damaged)
    return frozenset((kind, id) for kind, _, id in pairs)


def whole_snapshots(target: Target, catalogue: Catalogue) -> list[Archive]:
    """The snapshots of the files that no reading found damaged: those that a restore may use."""
    not_whole = damaged(read_state(target))
    return [snapshot for snapshot in catalogue.files if (snapshot.kind, snapshot.id) not in not_whole]


def note(target: Target, catalogue: Catalogue, results: Iterable[Result], *, now: datetime) -> list[Result]:
    """Remember what came of reading, and let the alarm stand or fall. The problems, those of manifests and gaps too.

    `catalogue` is of now, after the reading. What is not kept any more is forgotten.
    """
    known = _keys(catalogue)
    results = [result for result in results if result.key in known]  # what was merged or removed meanwhile is no loss
    # Cheap to judge, and judged by all that is there: so they end when they are over.
    results += [*_manifests(catalogue), *_gaps(catalogue)]
    with _alone(target):
        _remember(target, catalogue, results, now)
    return [result for result in results if result.problem is not None]


def _remember(target: Target, catalogue: Catalogue, results: Sequence[Result], now: datetime) -> None:
    state = read_state(target)
    at = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    # What a clock that was ahead has noted would not have its turn again before that time.
    state.read_at = {key: min(then, at) for key, then in state.read_at.items()}
    for result in results:
        if result.kind != "log":
            state.read_at[result.key] = at
        if result.problem is None:
            state.damaged.pop(result.key, None)
        else:
            state.damaged[result.key] = result.problem
    read = {result.id for result in results if result.kind == "log"}
    if read:
        state.read_at["log"] = at
    newest = max((piece.to.hex for piece in catalogue.slices if piece.id in read), default="")
    state.log_to = max(state.log_to or "", newest) or None
    current = _keys(catalogue) | {result.key for result in results}
    state.damaged = {key: problem for key, problem in state.damaged.items() if key in current}
    state.read_at = {key: at for key, at in state.read_at.items() if key in current}
    write_whole(_state_file(target), msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
    problem = standing_problem(state)
    if problem is None:
        clear_alarm(target, "verify")
    else:
        raise_alarm(target, "verify", problem)


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Log, files and archives are taken and noted at the same time; this waits for its moment."""
    descriptor = os.open(target.root / ".verification.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def standing_problem(state: State) -> BackupError | None:
    """What an operator is to be told of all that is not whole; None when everything is."""
    if not state.damaged:
        return None
    problems = [f"{key}: {problem}." for key, problem in sorted(state.damaged.items())]
    more = f" And {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
    return BackupError(
        "Not everything that is kept is whole. " + " ".join(problems[:_SHOWN]) + more,
        "Check the disk (smartctl) and take a new full: loyalty-backup full. What a second copy has can be copied "
        "back; what cannot be mended goes with: loyalty-backup prune --damaged",
    )


def _keys(catalogue: Catalogue) -> set[str]:
    """The key of everything that can be checked."""
    archives = (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files, *catalogue.site)
    names = {f"{archive.kind}/{archive.id}" for archive in archives}
    names |= {f"{what}/{chain.id}" for chain in catalogue.chains for what in ("chain", "repository")}
    return names | {"repository/files", "log"}


def _manifests(catalogue: Catalogue) -> Iterator[Result]:
    return (Result("manifest", str(number), sentence) for number, sentence in enumerate(catalogue.damaged))


def _gaps(catalogue: Catalogue) -> Iterator[Result]:
    """Breaks of the log after the newest full. Those before it cost some seconds of the past, and nothing to come."""
    if not catalogue.chains:
        return
    since = catalogue.chains[-1].archives[0].to
    spans = [span for span in catalogue.spans if span.to > since]
    for before, after in pairwise(spans):
        begin, end = before.to.instant, after.from_.instant
        yield Result(
            "gap",
            before.to.hex,
            f"the log has a gap from {begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC; of the time between, "
            "only what the archives themselves hold can be restored",
        )


def newest_and_longest_unread(things: Sequence[_T], keys: Sequence[str], state: State) -> list[_T]:
    """The newest, and of the others the one that was read the longest time ago."""
    if not things:
        return []
    others = sorted(
        zip(keys[:-1], things[:-1], strict=True), key=lambda pair: (state.read_at.get(pair[0], ""), pair[0])
    )
    return [things[-1], *(thing for _, thing in others[:1])]


def _turn(id: str) -> int:
    """The day of the round on which a slice is read again."""
    return zlib.crc32(id.encode()) % ROUND_DAYS


def _by_id(archives: Iterable[Archive]) -> dict[str, Archive]:
    return {archive.id: archive for archive in archives}


def _moment(entry: bytes) -> ClusterTime:
    return ClusterTime.of(bson.decode(entry)["ts"])


def _not_in(chain: str) -> str:
    return f"the repository of chain {chain} does not hold the archive that its manifest describes"


def _state_file(target: Target) -> Path:
    return target.root / "verification.json"
