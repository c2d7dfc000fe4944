"""Clearing away what nothing refers to any more. (Idempotency records expire by MongoDB's own TTL index.)"""

from __future__ import annotations

from datetime import datetime

import structlog

from loyalty.files import service as files
from loyalty.jobs.model import Work

log = structlog.get_logger(__name__)


def sweep_files(work: Work, slot: datetime) -> None:
    """Remove contents without a file, and uploads that never ended, after their grace period."""
    orphans, abandoned = files.sweep(work.db, files.store_of(work.settings), check=work.turn.check)
    if orphans or abandoned:
        log.info("files swept", orphans=orphans, abandoned_uploads=abandoned)
