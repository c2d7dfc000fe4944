"""Whether the second copy still is what it is a copy of: each time a part of it is read, so that in time all of it is.

rsync compares checksums that each side works out of what it reads there. So it is the far disk that is asked, also
behind SSH, where nothing needs the keys or this program, and hardly a byte is sent. It is the part that is read here
each day (`loyalty.backup.verify`): of chains, dumps and snapshots the newest, and the one that was not compared for the
longest time; of the log what is new, and a thirtieth of the rest.

What a run brings is left to the next one: rsync has held its checksum against what arrived, and what is read right
after it was written comes from memory, not from the disk.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec

from loyalty.backup.manifest import Archive, Catalogue, Target, write_whole
from loyalty.backup.retention import Key
from loyalty.backup.rsync import differing
from loyalty.backup.verify import ROUND_DAYS, State, newest_and_longest_unread


class Far(NamedTuple):
    """Where the second copy is: a folder, or USER@HOST:/FOLDER behind `shell`."""

    location: str
    shell: str | None = None
    bytes_per_second: float = 0


class Compared(NamedTuple):
    """What came of it."""

    number: int
    """How many chains, slices, dumps and snapshots were looked at."""
    unlike: dict[str, str]
    """Those that are not what is here, as KIND/ID, with a file that differs; of earlier runs too, until they are."""


def compare(
    target: Target, far: Far, here: Catalogue, there: Catalogue, not_whole: frozenset[Key], *, now: datetime
) -> Compared:
    """Compare this time's part of what both sides have. RsyncError when that fails.

    What was found damaged here is no measure for what is there.
    """
    both = _on_both_sides(here, there, not_whole)
    state = _read_state(target)
    results = dict(_compare_slices(target, far, both, state, now))
    for key in _chosen(both, state):
        results[key] = _differing(target, far, *_where(key))
    this_time = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    # What a clock that was ahead has noted would not have its turn again before that time.
    state.read_at = {key: min(at, this_time) for key, at in state.read_at.items() if key in both}
    state.read_at |= dict.fromkeys(results, this_time)
    state.damaged = {key: path for key, path in state.damaged.items() if key in both and key not in results}
    state.damaged |= {key: files[0] for key, files in results.items() if files}
    write_whole(_state_file(target), msgspec.json.encode(state) + b"\n")
    return Compared(len(results), state.damaged)


def _on_both_sides(here: Catalogue, there: Catalogue, not_whole: frozenset[Key]) -> list[str]:
    """Keys by time. A chain is one thing: what its archives share is stored once."""

    def keys(catalogue: Catalogue) -> Iterator[str]:
        for chain in catalogue.chains:
            if not not_whole.intersection({("repository", chain.id), *map(_key, chain.archives)}):
                yield f"chain/{chain.id}"
        for archive in (*catalogue.slices, *catalogue.dumps, *catalogue.files):
            if _key(archive) not in not_whole:
                yield "/".join(_key(archive))

    have = set(keys(there))
    return [key for key in keys(here) if key in have]


def _key(archive: Archive) -> Key:
    return archive.kind, archive.id


def _chosen(both: Sequence[str], state: State) -> set[str]:
    """Whose turn it is of chains, dumps and snapshots, and what differed the last time."""
    kinds = ([key for key in both if key.startswith(f"{kind}/")] for kind in ("chain", "dump", "files"))
    turn = {key for keys in kinds for key in newest_and_longest_unread(keys, keys, state)}
    return turn | {key for key in state.damaged if key in both and not key.startswith("log/")}


def _compare_slices(
    target: Target, far: Far, both: Sequence[str], state: State, now: datetime
) -> Iterator[tuple[str, list[str]]]:
    """All of those whose turn it is at once: they are many, and small."""
    today = now.toordinal() % ROUND_DAYS
    keys = [
        key
        for key in both
        if key.startswith("log/")
        and (key not in state.read_at or key in state.damaged or zlib.crc32(key.encode()) % ROUND_DAYS == today)
    ]
    if not keys:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".names") as listed:
        listed.write("\n".join(f"{key}.{suffix}" for key in keys for suffix in ("slice", "json")))
        listed.flush()
        found = _differing(target, far, "", "--no-recursive", f"--files-from={listed.name}")
    for key in keys:
        yield key, [name for name in found if name.startswith(f"{key}.")]


def _where(key: str) -> tuple[str, ...]:
    """The folder of what a key names, and what rsync is to look at in it."""
    kind, _, id = key.partition("/")
    if kind != "chain":
        return ({"dump": "dumps", "files": "files"}[kind] + f"/{id}/",)
    # Segments, which are never written over. One that is only here may be of a run that is under way, or failed.
    return (f"chains/{id}/repository/", "--existing", "--include=/data/***", "--exclude=*")


def _differing(target: Target, far: Far, path: str, *options: str) -> list[str]:
    places = (f"{target.root}/{path}", f"{far.location.rstrip('/')}/{path}")
    return differing("--links", "--ignore-missing-args", *options, "--", *places, shell=far.shell)


def _read_state(target: Target) -> State:
    """What is known from comparing; nothing if that was lost, and then everything is compared again."""
    try:
        return msgspec.json.decode(_state_file(target).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return State()


def _state_file(target: Target) -> Path:
    return target.root / "second_copy.json"
