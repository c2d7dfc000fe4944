"""Verifications of the whole ledger that were asked for over the API: one at a time, in processes of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import structlog

from loyalty.infra.mongo import Document
from loyalty.jobs.lease import LeaseLost
from loyalty.jobs.model import Work
from loyalty.jobs.sealing import seal_key, witnesses
from loyalty.ledger.verify import Verification, verify
from loyalty.proofs.service import RUNS

_PAUSE_SECONDS: Final = 2.0
_PROCESSES: Final = 1
"""Requests come first: the rest of the processors is theirs. `loyalty ledger verify` takes all of them."""
_MOST_DEFECTS: Final = 100

log = structlog.get_logger(__name__)


def run_verifications(work: Work, beat: Callable[[float | None, int], None]) -> None:
    """Do what is asked for until the turn is over (LeaseLost). One that was cut off begins again."""
    pause = threading.Event()
    while True:
        beat(None, 0)
        run = work.db[RUNS].find_one({"status": {"$in": ["waiting", "running"]}}, sort=[("_id", 1)])
        if run is None:
            pause.wait(_PAUSE_SECONDS)
        else:
            _run(work, run, beat)
            beat(None, 1)


def _run(work: Work, run: Document, beat: Callable[[float | None, int], None]) -> None:
    """The work goes on in a thread, so that this one can beat however long a part of it takes."""
    begun = {"status": "running", "started_at": work.clock(), "entries": 0}
    begun["entries_expected"] = work.db.ledger.estimated_document_count()
    _take(work, run, begun)
    result: list[Verification | Exception] = []
    over = threading.Event()

    def progress(entries: int) -> None:
        if over.is_set():
            raise LeaseLost("the verification is not wanted any more")
        _update(work, run, {"entries": entries})

    def check() -> None:
        try:
            result.append(
                verify(
                    work.db,
                    uri=work.settings.mongo_uri.get_secret_value(),
                    processes=_PROCESSES,
                    seal_key=seal_key(work.settings).public_key(),
                    witnesses=witnesses(work.settings.storage_path),
                    most_defects=_MOST_DEFECTS,
                    progress=progress,
                )
            )
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            beat(None, 0)
            thread.join(1.0)
    finally:
        over.set()
    _update(work, run, {**_outcome(result[0]), "finished_at": work.clock()})


def _outcome(result: Verification | Exception) -> dict[str, Any]:
    if isinstance(result, Exception):
        log.error("the ledger could not be verified", exc_info=result)
        return {"status": "failed", "error": f"{type(result).__name__}: {result}"[:500]}
    if not result.ok:
        log.error("the ledger is not whole", defects=len(result.defects), first=result.defects[0].where)
    return {
        "status": "whole" if result.ok else "broken",
        "entries": result.entries,
        "chains": result.chains,
        "seals": result.seals,
        "sealed_entries": result.sealed_entries,
        "defects": [{"where": defect.where, "what": defect.what} for defect in result.defects],
    }


def _take(work: Work, run: Document, fields: dict[str, Any]) -> None:
    """Make the run this term's own. LeaseLost when a later term has it."""
    term = work.turn.term
    mine = {"_id": run["_id"], "term": {"$not": {"$gt": term}}}
    if not work.db[RUNS].update_one(mine, {"$set": {**fields, "term": term}}).matched_count:
        raise LeaseLost("a later term verifies already")


def _update(work: Work, run: Document, fields: dict[str, Any]) -> None:
    """Write what became of the run. LeaseLost when a later term has it."""
    mine = {"_id": run["_id"], "term": work.turn.term}
    if not work.db[RUNS].update_one(mine, {"$set": fields}).matched_count:
        raise LeaseLost("a later term verifies already")
