"""A target that holds a history: two chains, each with its full, and the log from the first on, in slices."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

from loyalty.backup.manifest import Archive, ClusterTime, Target, read_catalogue, write_manifest
from loyalty.backup.replay import time_of
from loyalty.backup.repository import Repository
from loyalty.backup.sealed import read_identity, write_sealed
from loyalty.backup.settings import Settings, load_settings
from loyalty.backup.target import initialise
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.history import History

PASSPHRASE = "correct horse battery staple"
SITE = "bakery"


def settings_in(directory: Path, *, more: str = "") -> Settings:
    """The settings of a backup host whose everything is in one folder."""
    (directory / "target").mkdir(parents=True)
    (directory / "backup_passphrase").write_text(PASSPHRASE)
    (directory / "backup_identity").write_text(str(pyrage.x25519.Identity.generate()))
    path = directory / "backup.toml"
    path.write_text(f"""
site = "{SITE}"
target = "{directory}/target"
allow_same_disk = true
reserve_megabytes = 0

[database]
replica_set = "loyalty"

[[members]]
address = "127.0.0.1:1"
command = ["false"]

[restore]
mongod = "{mongod_path()}"
cache_megabytes = 256
{more}
""")
    return load_settings(path)


def archive(settings: Settings, history: History, *, slices: int = 4) -> Target:
    """Fill the target with the history."""
    target = initialise(settings)
    _full(settings, target, "20260101T000000Z", history.older, history.older_base)
    _full(settings, target, "20260102T000000Z", history.copy, history.base)
    entries = list(history.entries())
    size = len(entries) // slices + 1
    previous: Archive | None = None
    for start in range(0, len(entries), size):
        # The first entry is the last of the slice before.
        previous = _slice(settings, target, entries[max(start - 1, 0) : start + size], previous)
    found = read_catalogue(target)
    assert (len(found.chains), len(found.slices), len(found.spans)) == (2, slices, 1)
    return target


def _full(settings: Settings, target: Target, chain: str, folder: Path, base: ClusterTime) -> None:
    (target.chains / chain).mkdir()
    repository = Repository(target.repository(chain), PASSPHRASE)
    repository.create()
    imported = repository.import_tar(f"{chain}-full", _tar(folder))
    write_manifest(
        target,
        Archive(
            kind="full",
            id=f"{chain}-full",
            chain=chain,
            from_=base,
            to=base,
            at=base.instant.isoformat(),
            server="127.0.0.1:1",
            server_version="6.0.5",
            fcv="6.0",
            bytes=imported.bytes,
            stored_bytes=imported.stored_bytes,
            sha256=imported.id,
            agent="test",
        ),
    )


def _slice(settings: Settings, target: Target, entries: Sequence[bytes], previous: Archive | None) -> Archive:
    from_, to = time_of(entries[0]), time_of(entries[-1])
    name = f"{from_.hex}-{to.hex}"
    stored = write_sealed(target.log / f"{name}.slice", entries, read_identity(settings.identity_file))
    made = Archive(
        kind="log",
        id=name,
        predecessor=previous.id if previous else None,
        from_=from_,
        to=to,
        at=to.instant.isoformat(),
        server="127.0.0.1:1",
        entries=len(entries),
        last_sha256=hashlib.sha256(entries[-1]).hexdigest(),
        bytes=sum(map(len, entries)),
        stored_bytes=stored.bytes,
        sha256=stored.sha256,
        agent="test",
    )
    write_manifest(target, made)
    return made


def _tar(folder: Path) -> Iterator[bytes]:
    """The folder as the source program sends it: names from the folder on."""
    out = _Chunks()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
            yield from out.take()
    yield from out.take()


class _Chunks:
    """A file that keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._held.append(data)
        return len(data)

    def take(self) -> list[bytes]:
        held, self._held = self._held, []
        return held
