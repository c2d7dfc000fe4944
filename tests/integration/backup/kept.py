"""A target with a bit of everything in it, made with real borg and age."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bson
import msgspec
import pyrage  # type: ignore[import-untyped]

from loyalty.backup.files import Source, copy_into_repository, take
from loyalty.backup.manifest import Archive, ClusterTime, Kind, Target, read_catalogue, write_manifest
from loyalty.backup.repository import Repository
from loyalty.backup.sealed import write_sealed
from loyalty.backup.verify import Verifier, note

PASSPHRASE = "secret"
NOW = datetime(2026, 11, 28, 4, tzinfo=timezone.utc)
IDENTITY = pyrage.x25519.Identity.generate()


def at(second: int) -> ClusterTime:
    return ClusterTime(int(NOW.timestamp()) + second, 1)


def entry(second: int) -> bytes:
    return bson.encode({"ts": at(second).timestamp, "o": {"_id": second, "padding": "x" * 200}})


def archive(kind: Kind, id: str, to: ClusterTime, **others: object) -> Archive:
    fields = {"from_": to, "at": to.instant.isoformat(), "server": "db1:27017", "agent": "test", **others}
    return Archive(kind=kind, id=id, to=to, **fields)  # type: ignore[arg-type]


def marker(created_at: datetime) -> str:
    return f'{{"format":1,"site":"acme","created_at":"{created_at:%Y-%m-%dT%H:%M:%SZ}"}}'


class Kept:
    """A target with a bit of everything in it."""

    def __init__(self, root: Path) -> None:
        self.target = Target(root)

    @classmethod
    def copied(cls, original: Path, to: Path) -> Kept:
        """What was made once, to be spoilt."""
        subprocess.run(["cp", "-a", original, to], check=True)
        return cls(to)

    def fill(self, storage: Path) -> None:
        """Everything but repositories, which take long to make."""
        for folder in (self.target.chains, self.target.log, self.target.dumps, self.target.files):
            folder.mkdir(parents=True)
        self.target.marker.write_text(marker(datetime.now(timezone.utc)))
        for begin in range(0, 300, 50):
            self.slice(begin, begin + 50)
        for second in (0, 100):
            self.dump(second)
        (storage / "files").mkdir(parents=True)
        for number in range(2):
            (storage / "files" / f"file{number}").write_bytes(os.urandom(1000))
            take(self.target, Source(str(storage)), now=NOW + timedelta(seconds=number))

    def fill_repositories(self) -> None:
        self.chain(0)
        self.chain(100, 200)
        copy_into_repository(self.target, read_catalogue(self.target).files[-1], PASSPHRASE)

    def chain(self, *seconds: int) -> None:
        chain = at(seconds[0]).stamp
        (self.target.chains / chain).mkdir()
        repository = Repository(self.target.repository(chain), PASSPHRASE)
        repository.create()
        for second in seconds:
            kind: Kind = "full" if second == seconds[0] else "incremental"
            id = f"{at(second).stamp}-{kind}"
            imported = repository.import_tar(id, [tar_of(os.urandom(50_000))])
            write_manifest(self.target, archive(kind, id, at(second), chain=chain, sha256=imported.id))

    def slice(self, begin: int, end: int, *, predecessor: bool = True) -> Archive:
        entries = [entry(second) for second in (*range(begin, end, (end - begin) // 10), end)]
        piece = archive(
            "log",
            f"{at(begin).hex}-{at(end).hex}",
            at(end),
            from_=at(begin),
            predecessor=f"{at(begin - 50).hex}-{at(begin).hex}" if predecessor and begin else None,
            entries=len(entries),
            last_sha256=hashlib.sha256(entries[-1]).hexdigest(),
        )
        stored = write_sealed(self.target.slice(piece), entries, IDENTITY)
        piece = msgspec.structs.replace(piece, sha256=stored.sha256)
        write_manifest(self.target, piece)
        return piece

    def dump(self, second: int) -> None:
        folder = self.target.dumps / at(second).stamp
        folder.mkdir()
        write_sealed(folder / "loyalty.members.bson.age", [entry(n) for n in range(20)], IDENTITY)
        write_manifest(self.target, archive("dump", at(second).stamp, at(second), counts={"loyalty.members": 20}))

    def site_copy(self, second: int) -> Path:
        """A copy of the site's folder, as the control machine leaves it here."""
        (self.target.root / "site").mkdir(exist_ok=True)
        sealed = b"$ANSIBLE_VAULT;1.1;AES256\n" + os.urandom(1000).hex().encode()
        path = self.target.root / "site" / f"{at(second).stamp}.tar.vault"
        path.write_bytes(sealed)
        manifest = {"format": 1, "id": at(second).stamp, "bytes": len(sealed), "content_sha256": "ab" * 32}
        manifest["sha256"] = hashlib.sha256(sealed).hexdigest()
        (path.parent / f"{at(second).stamp}.json").write_text(json.dumps(manifest))
        return path

    def verifier(self) -> Verifier:
        return Verifier(self.target, passphrase=PASSPHRASE, identity=IDENTITY)

    def read_everything(self) -> list[str]:
        """The keys of what is not whole."""
        catalogue = read_catalogue(self.target)
        return [problem.key for problem in note(self.target, catalogue, self.verifier().everything(catalogue), now=NOW)]


def tar_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("data")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
