"""The ledger's seals: made every minute, and the last one of each day written to the file store.

A daily file lets somebody who keeps it (the backup host, an auditor) prove later what the ledger held that day,
whatever happened to the database since.
"""

from __future__ import annotations

import base64
import os
import tempfile
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from loyalty.config import Settings, SettingsError
from loyalty.infra.http.model import format_instant
from loyalty.infra.mongo import Mongo
from loyalty.jobs.model import Work
from loyalty.ledger.seal import Sealer
from loyalty.ledger.verify import Witness

_DAY = timedelta(days=1)

log = structlog.get_logger(__name__)


def seal_key(settings: Settings) -> Ed25519PrivateKey:
    """The installation's signing key. SettingsError where it is not at hand."""
    if settings.seal_key is None:
        raise SettingsError(
            "LOYALTY_SEAL_KEY is not set: the jobs and `loyalty ledger` need it to sign and check seals."
        )
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(settings.seal_key.get_secret_value()))


class SealEveryMinute:
    """The job: seals what is new, in as many seals as it takes. Remembers between runs how far it has come."""

    def __init__(self) -> None:
        self._sealer: Sealer | None = None
        self._term = 0

    def __call__(self, work: Work, slot: datetime) -> None:
        if self._sealer is None or self._term != work.turn.term:
            self._sealer, self._term = Sealer(work.db, seal_key(work.settings)), work.turn.term
        while self._sealer.seal(work.clock()) is not None:
            work.turn.check()


def write_daily_files(work: Work, slot: datetime) -> None:
    """Write `seals/YYYY-MM-DD.json` for every finished day (UTC) that has seals and no file yet."""
    folder = work.settings.storage_path / "seals"
    folder.mkdir(mode=0o750, exist_ok=True)
    key = seal_key(work.settings)
    last = max((path.stem for path in folder.glob("*.json")), default=None)
    since = _midnight(date.fromisoformat(last)) + _DAY if last else datetime.min.replace(tzinfo=timezone.utc)
    today = _midnight(work.clock().date())
    while True:
        work.turn.check()
        seal = work.db.seals.find_one(
            {"sealed_at": {"$gte": since, "$lt": today}}, {"sealed_at": 1}, sort=[("sealed_at", 1)]
        )
        if seal is None:
            return
        day = seal["sealed_at"].date()
        write_daily_file(work.db, key, folder, day)
        since = _midnight(day) + _DAY


def write_daily_file(db: Mongo, key: Ed25519PrivateKey, folder: Path, day: date) -> Path | None:
    """Write the last seal of `day`; None when it has none. Whole or not at all, and on the disk on return."""
    seal = db.seals.find_one(
        {"sealed_at": {"$gte": _midnight(day), "$lt": _midnight(day) + _DAY}}, {"entries": 0}, sort=[("sealed_at", -1)]
    )
    if seal is None:
        return None
    path = folder / f"{day.isoformat()}.json"
    content = orjson.dumps(_public(seal, key), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    _write_durably(path, content)
    return path


def witnesses(storage: Path) -> list[Witness]:
    """The seals that the daily files keep: the database must still have them as they were."""
    found = []
    for path in sorted((storage / "seals").glob("*.json")):
        try:
            kept = orjson.loads(path.read_bytes())
            found.append(Witness(kept["number"], bytes.fromhex(kept["hash"]), f"the file {path}"))
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("a file of a seal cannot be read", path=str(path))
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)


def _public(seal: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The seal as JSON: bytes in hexadecimal, and the public key that verifies its signature over `hash`."""
    return {
        "number": seal["_id"],
        "sealed_at": format_instant(seal["sealed_at"]),
        "entries": seal["count"],
        "root": bytes(seal["root"]).hex(),
        "prev": bytes(seal["prev"]).hex(),
        "hash": bytes(seal["hash"]).hex(),
        "signature": bytes(seal["signature"]).hex(),
        "public_key": key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex(),
    }


def _write_durably(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o640)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
