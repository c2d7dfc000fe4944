"""The second copy, elsewhere: a folder of the same form, on a mount or behind SSH.

What is there already stays as it is: archives never change, so what changed here was damaged. What is new goes there
archive by archive, the data first and its manifest after it, so the far side never claims more than it has either. What
is let go there is decided by the retention over its own manifests: that something is missing here is no reason. And
each run compares a part of what is there with what is here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from loyalty.backup.comparing import Far, compare
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, Catalogue, Target, read_catalogue
from loyalty.backup.retention import Decision, Key, Policy, decide
from loyalty.backup.rsync import RsyncError, rsync
from loyalty.backup.target import hold
from loyalty.backup.verify import damaged, read_state

_PATIENCE_S: Final = 3600
_SHOWN: Final = 3  # of many that differ, in a message

_RECORDS: Final = ("history.jsonl", "restore_drills.jsonl", "certificates", "site")
"""What is not an archive: told, proven, and the control machine's folder."""


class CopyError(BackupError):
    """The second copy is not up to date. What it holds is whole all the same."""


class Copied(NamedTuple):
    """What a run has brought, what it has let go there, and how much that was there it has compared."""

    archives: int
    bytes: int
    gone: int
    compared: int


def begin(target: Target, far: Far) -> None:
    """Make an empty folder there a copy of this target. CopyError when there is no such folder."""
    _run(far, target.marker.name, source=f"{target.root}/{target.marker.name}")


def copy(target: Target, far: Far, policy: Policy, *, now: datetime, progress: bool = False) -> Copied:
    """Bring the far side up to date. CopyError says what failed; the next run goes on where this one stopped.

    What was found damaged here stays here. CopyError too, when all is done, where something there is not what is here.
    """
    here = read_catalogue(target)
    not_whole = damaged(read_state(target))
    with tempfile.TemporaryDirectory(prefix="loyalty-copy-") as scratch:
        there = _look(target, far, Path(scratch))
        compared, wrong = _compare(target, far, here, there, not_whole, now)
        new = [one for one in _missing(here, there) if (one.kind, one.id) not in not_whole]
        _copy_slices(target, far, new, progress)
        _copy_files(target, far, here, there, new, progress)
        with hold(target, "The second copy", patience_s=_PATIENCE_S):
            _copy_chains(target, far, here, new, progress)
            _copy_dumps(target, far, new, progress)
        for name in _RECORDS:
            if (target.root / name).exists():
                _run(far, "", source=f"{target.root}/./{name}", options=("--relative",))
        gone = _let_go(far, _look(target, far, Path(scratch)), policy, now)
    if wrong is not None:
        raise wrong
    return Copied(len(new), sum(archive.stored_bytes for archive in new), gone, compared)


def _look(target: Target, far: Far, scratch: Path) -> Catalogue:
    """What the far side holds. CopyError when that is not a copy of this target."""
    shutil.rmtree(scratch / "far", ignore_errors=True)
    filters = (
        *("--exclude=/files/*/", "--exclude=/chains/*/repository", "--exclude=/site", "--exclude=/certificates"),
        *("--include=*/", "--include=*.json", "--exclude=*"),
    )
    fetched = Target(scratch / "far")
    fetched.root.mkdir()
    try:
        rsync(*filters, "--", f"{far.location.rstrip('/')}/", f"{fetched.root}/", shell=far.shell)
    except RsyncError as error:
        raise CopyError(f"{far.location} cannot be read: {error.reason}.", _REMEDY) from None
    if not fetched.marker.exists():
        raise CopyError(
            f"{far.location} is no copy of a target yet, or not mounted.",
            "Mount it. If it is a new one, type: loyalty-backup copy --init",
        )
    if _site(fetched) != _site(target):
        raise CopyError(f"{far.location} keeps the backups of {_site(fetched)}, not of {_site(target)}.", _REMEDY)
    return read_catalogue(fetched)


def _compare(
    target: Target, far: Far, here: Catalogue, there: Catalogue, not_whole: frozenset[Key], now: datetime
) -> tuple[int, CopyError | None]:
    """How much was compared, and what is wrong there: to be told when all that is new was brought."""
    try:
        compared = compare(target, far, here, there, not_whole, now=now)
    except RsyncError as error:
        return 0, CopyError(f"What is at {far.location} cannot be read again: {error.reason}.", _REMEDY)
    if not compared.unlike:
        return compared.number, None
    shown = [f"{key} ({path})" for key, path in sorted(compared.unlike.items())[:_SHOWN]]
    more = f", and {len(compared.unlike) - _SHOWN} more" if len(compared.unlike) > _SHOWN else ""
    return compared.number, CopyError(
        f"What is at {far.location} is not what is here: {', '.join(shown)}{more}. All that is new was brought.",
        "See which one is whole: loyalty-backup verify ID. If it is the one here, the disk there rots: remove that "
        "archive there, manifest and all, and the next run brings it again.",
    )


def _missing(here: Catalogue, there: Catalogue) -> list[Archive]:
    have = {(archive.kind, archive.id) for archive in _all(there)}
    return [archive for archive in _all(here) if (archive.kind, archive.id) not in have]


def _all(catalogue: Catalogue) -> tuple[Archive, ...]:
    return (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files)


def _copy_slices(target: Target, far: Far, new: Sequence[Archive], progress: bool) -> None:
    pieces = [archive for archive in new if archive.kind == "log"]
    for names in ([f"log/{piece.id}.slice" for piece in pieces], [f"log/{piece.id}.json" for piece in pieces]):
        with tempfile.NamedTemporaryFile("w", suffix=".names") as listed:
            listed.write("\n".join(names))
            listed.flush()
            if names:
                options = (f"--files-from={listed.name}", "--no-recursive")
                _run(far, "", source=f"{target.root}/", options=options, progress=progress)


def _copy_files(
    target: Target, far: Far, here: Catalogue, there: Catalogue, new: Sequence[Archive], progress: bool
) -> None:
    """Each snapshot shares there what it shares here: with the newest one before it that is there."""
    have = [snapshot.id for snapshot in there.files]
    for snapshot in sorted((archive for archive in new if archive.kind == "files"), key=lambda one: one.id):
        before = max((id for id in have if id < snapshot.id), default=None)
        options = ("--mkpath", *([f"--link-dest=../{before}"] if before else []))
        tree = f"files/{snapshot.id}"
        _run(far, f"{tree}/", source=f"{target.root}/{tree}/", options=options, progress=progress)
        for suffix in ("sha256", "json"):
            _run(far, "files/", source=f"{target.files}/{snapshot.id}.{suffix}")
        have.append(snapshot.id)
    if here.files and (target.files / "repository").exists():
        with hold(target, "The second copy", part="files", patience_s=_PATIENCE_S):
            _copy_repository(target, far, "files/repository", progress)


def _copy_chains(target: Target, far: Far, here: Catalogue, new: Sequence[Archive], progress: bool) -> None:
    for chain in here.chains:
        archives = [archive for archive in chain.archives if archive in new]
        if archives:
            _copy_repository(target, far, f"chains/{chain.id}/repository", progress)
        for archive in archives:
            _run(far, f"chains/{chain.id}/", source=str(target.manifest(archive)))


def _copy_repository(target: Target, far: Far, path: str, progress: bool) -> None:
    """borg only adds segments, so one that is there is never written over: it would be by a damaged one.

    What it has compacted away goes after all the rest is there.
    """
    source = f"{target.root}/{path}/"
    segments = ("--mkpath", "--ignore-existing", "--include=/data/***", "--exclude=*")
    _run(far, f"{path}/", source=source, options=segments, progress=progress)
    _run(far, f"{path}/", source=source, options=("--delete-after", "--exclude=/data"))
    _run(far, f"{path}/", source=source, options=("--delete-after", *segments[1:]))


def _copy_dumps(target: Target, far: Far, new: Sequence[Archive], progress: bool) -> None:
    for dump in new:
        if dump.kind == "dump":
            path = f"dumps/{dump.id}/"
            source = f"{target.root}/{path}"
            _run(far, path, source=source, options=("--mkpath", "--exclude=/manifest.json"), progress=progress)
            _run(far, path, source=str(target.manifest(dump)))


def _let_go(far: Far, there: Catalogue, policy: Policy, now: datetime) -> int:
    """Remove there what the retention over its own manifests lets go; how many."""
    decisions = [decision for decision in decide(there, policy, now=now) if not decision.keep]
    for paths in ([path for one in decisions for path in _manifests(there, one)], [*map(_data, decisions)]):
        _remove(far, [path for path in paths if path])
    return len(decisions)


def _manifests(catalogue: Catalogue, decision: Decision) -> list[str]:
    if decision.what == "chain":
        (chain,) = (chain for chain in catalogue.chains if chain.id == decision.id)
        return [f"chains/{chain.id}/{archive.id}.json" for archive in chain.archives]
    folder = {"log": f"log/{decision.id}.json", "dump": f"dumps/{decision.id}/manifest.json"}
    return [folder.get(decision.what, f"files/{decision.id}.json")]


def _data(decision: Decision) -> str:
    return {
        "chain": f"chains/{decision.id}",
        "log": f"log/{decision.id}.slice",
        "dump": f"dumps/{decision.id}",
        "files": f"files/{decision.id}*",  # the tree, and the list beside it
    }[decision.what]


def _remove(far: Far, paths: Sequence[str]) -> None:
    """Remove paths there, and nothing else: what is missing in an empty folder here, under a filter that names them."""
    if not paths:
        return
    with tempfile.TemporaryDirectory(prefix="loyalty-none-") as empty, tempfile.NamedTemporaryFile("w") as rules:
        above = sorted({parent for path in paths for parent in map(str, Path(path).parents) if parent != "."})
        for folder in above:
            (Path(empty) / folder).mkdir(parents=True, exist_ok=True)
            rules.write(f"+ /{folder}/\n")
        for path in paths:
            rules.write(f"+ /{path}\n+ /{path}/**\n")
        rules.write("- *\n")
        rules.flush()
        _run(far, "", source=f"{empty}/", options=("--delete", f"--filter=merge {rules.name}"))


_REMEDY: Final = (
    "Check that it is mounted or its host answers, and has room; the next run goes on where this one stopped."
)


def _run(far: Far, path: str, *, source: str, options: Sequence[str] = (), progress: bool = False) -> None:
    try:
        rsync(
            "--links",  # borg's repositories have none, the site's folder may
            "--ignore-missing-args",
            *options,
            "--",
            source,
            f"{far.location.rstrip('/')}/{path}",
            shell=far.shell,
            bytes_per_second=far.bytes_per_second,
            progress=progress,
        )
    except RsyncError as error:
        reason = "it is full" if error.is_full else error.reason
        raise CopyError(f"The second copy at {far.location} is not up to date: {reason}.", _REMEDY) from None


def _site(target: Target) -> str:
    with suppress(OSError, msgspec.MsgspecError, KeyError):
        return str(msgspec.json.decode(target.marker.read_bytes())["site"])
    return "nobody"
