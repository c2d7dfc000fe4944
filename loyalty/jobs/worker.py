"""The process behind `python -m loyalty jobs run`: renews the lease, and lets jobs run while it is held.

Three kinds of threads: the main one does nothing but the lease and the watchdog; APScheduler's pool runs the
periodic jobs; each continuous job has its own. None of them ends because MongoDB is away: they wait and try
again.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-untyped]
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]
from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped]
from pymongo.errors import PyMongoError

from loyalty.config import Settings
from loyalty.infra.clock import Clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.jobs import records
from loyalty.jobs.lease import Lease, LeaseLost, Turn, boot_seconds
from loyalty.jobs.model import ContinuousJob, Job, PeriodicJob, Work
from loyalty.jobs.notify import notify

LEASE_SECONDS = 10.0  # with two renewals this is how long nobody works after a death: less than 15 s
RENEW_SECONDS = 2.0
AWAY_SECONDS = 0.5  # until the next question when MongoDB did not answer: the lease goes on running out
AFTER_BOUNDARY = timedelta(seconds=0.1)  # renewals correct the time by some milliseconds, also backwards
FIRST_RETRY_SECONDS = 2
LONGEST_RETRY_SECONDS = 300
LONGEST_PAUSE_OF_FOLLOWERS = timedelta(seconds=10)  # readers wait for what they follow
# What running jobs get to notice SIGTERM: more than the five seconds after which one gives up on a database that is
# away, less than the unit's TimeoutStopSec.
END_SECONDS = 6.5
STALLED_SECONDS = 45.0  # a continuous job that did not beat for so long is stuck: the watchdog is not fed

log = structlog.get_logger(__name__)
logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it tells every tick; the records tell the runs


class _EachSlot(BaseTrigger):
    """Fires when a period of the job begins, whenever it fired before."""

    def __init__(self, job: PeriodicJob, clock: Clock) -> None:
        self._job = job
        self._clock = clock

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """When this host's clock will show that the next period has begun by the clock that counts."""
        present = self._clock()
        return now + (self._job.slot(present) + self._job.every - present) + AFTER_BOUNDARY


class Worker:
    """One scheduler process. `run` blocks until `stop` is called (SIGTERM and SIGINT call it)."""

    def __init__(
        self,
        db: Mongo,
        settings: Settings,
        jobs: Sequence[Job],
        *,
        lease_seconds: float = LEASE_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._db = db
        # Lease and records go over a connection of their own, where every wait is short: jobs have scans that are not.
        uri = settings.mongo_uri.get_secret_value()
        self._control = connect(uri, db.name, serves_requests=True, pool=len(jobs) + 1)
        self._settings = settings
        self._periodic = [job for job in jobs if isinstance(job, PeriodicJob)]
        self._continuous = [job for job in jobs if isinstance(job, ContinuousJob)]
        self._lease = Lease(
            self._control, "jobs", node=settings.node_name, seconds=lease_seconds, patience_seconds=renew_seconds
        )
        self._clock = self._lease.now
        self._renew_seconds = renew_seconds
        self._stopping = threading.Event()
        self._failures: dict[str, int] = {}
        self._beats = {job.name: boot_seconds() for job in self._continuous}
        self._running: set[str] = set()
        self._running_changed = threading.Condition()
        self._scheduler = BackgroundScheduler(
            timezone=timezone.utc,
            executors={"default": ThreadPoolExecutor(max(1, len(self._periodic)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    def run(self) -> None:
        """Work whenever the lease is ours, until `stop`; then let jobs end, release the lease and return."""
        for job in self._periodic:
            self._scheduler.add_job(self._tick, _EachSlot(job, self._clock), args=[job], id=job.name, name=job.name)
        self._scheduler.start()
        followers = [threading.Thread(target=self._follow, args=[job], daemon=True) for job in self._continuous]
        for follower in followers:
            follower.start()
        notify("READY=1")
        try:
            self._keep_lease()
        finally:
            notify("STOPPING=1")
            self._end()

    def _keep_lease(self) -> None:
        state = ""
        while not self._stopping.is_set():
            before, term = state, self._lease.term
            try:
                state = "working" if self._lease.acquire() else "standing by"
            except PyMongoError as error:
                state = "waiting for MongoDB"
                if state != before:
                    log.warning("mongodb is away; jobs wait for it", error=str(error)[:300])
            if state == "working" and (before != state or self._lease.term != term):
                self._wake()
            if state != before:
                log.info("lease", state=state, term=self._lease.term, holder=self._lease.holder)
            notify(f"STATUS={state}, term {self._lease.term}", *(["WATCHDOG=1"] if self._alive() else []))
            self._stopping.wait(AWAY_SECONDS if state == "waiting for MongoDB" else self._renew_seconds)

    def _alive(self) -> bool:
        """Whether every continuous job moves (while not ours to run, their loops move too)."""
        return all(boot_seconds() - beat < STALLED_SECONDS for beat in self._beats.values())

    def _wake(self) -> None:
        """Let every periodic job look at once: a slot may have been missed while nobody held the lease."""
        for job in self._periodic:
            self._scheduler.modify_job(job.name, next_run_time=datetime.now(timezone.utc))

    def _end(self) -> None:
        self._stopping.set()
        self._lease.revoke()
        self._scheduler.shutdown(wait=False)
        with self._running_changed:
            ended = self._running_changed.wait_for(lambda: not self._running, timeout=END_SECONDS)
        if not ended:
            # The lease is left to expire: it must not pass on while a job of ours may still write.
            log.error("jobs did not end in time; the lease expires by itself", jobs=sorted(self._running))
            os._exit(1)
        try:
            self._lease.release()
            log.info("lease released", term=self._lease.term)
        except PyMongoError as error:
            log.warning("the lease could not be released; it expires by itself", error=str(error)[:300])
        self._control.client.close()

    def _enter(self, name: str) -> bool:
        with self._running_changed:
            if self._stopping.is_set():
                return False
            self._running.add(name)
            return True

    def _leave(self, name: str) -> None:
        with self._running_changed:
            self._running.discard(name)
            self._running_changed.notify_all()

    # periodic jobs

    def _tick(self, job: PeriodicJob) -> None:
        """Run the job for the present slot, unless it is done, or not ours to do."""
        turn = Turn(self._lease, self._lease.term)
        if not self._lease.held(turn.term) or not self._enter(job.name):
            return
        try:
            self._run(job, turn)
        except LeaseLost:
            log.info("job gave way: the lease is over", job=job.name)
        except Exception as failure:  # not of the job itself: of its record
            _log_failure(job, failure)
            self._retry(job)
        finally:
            self._leave(job.name)

    def _run(self, job: PeriodicJob, turn: Turn) -> None:
        slot = job.slot(self._clock())
        if not records.claim(self._control, job, slot=slot, now=self._clock(), turn=turn):
            return
        turn.check()
        error: str | None = None
        next_run_at = slot + job.every
        try:
            job.run(Work(self._db, self._settings, self._clock, turn), slot)
            self._failures.pop(job.name, None)
        except LeaseLost:
            raise
        except Exception as failure:
            _log_failure(job, failure)
            if self._stopping.is_set():
                return  # who is to end does not wait once more for a database that may be away
            error = f"{type(failure).__name__}: {failure}"
            next_run_at = min(next_run_at, self._retry(job))
        records.finish(
            self._control, job, slot=slot, now=self._clock(), turn=turn, error=error, next_run_at=next_run_at
        )

    def _retry(self, job: PeriodicJob) -> datetime:
        """Run a failed job again before its period is over, more and more patiently."""
        at = datetime.now(timezone.utc) + self._pause_after_failure(job.name)
        due = self._scheduler.get_job(job.name).next_run_time
        if due is None or at < due:
            self._scheduler.modify_job(job.name, next_run_time=at)
        return at

    def _pause_after_failure(self, name: str) -> timedelta:
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        return timedelta(seconds=min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 16), LONGEST_RETRY_SECONDS))

    # continuous jobs

    def _follow(self, job: ContinuousJob) -> None:
        """Keep the job running whenever the lease is ours."""
        while not self._stopping.is_set():
            self._beats[job.name] = boot_seconds()
            turn = Turn(self._lease, self._lease.term)
            if not self._lease.held(turn.term) or not self._enter(job.name):
                self._stopping.wait(0.5)
                continue
            pause = timedelta()
            try:
                self._follow_once(job, turn)
            except LeaseLost:
                log.info("job gave way: the lease is over", job=job.name)
            except Exception as failure:
                pause = min(self._pause_after_failure(job.name), LONGEST_PAUSE_OF_FOLLOWERS)
                _log_failure(job, failure)
                if not self._stopping.is_set():  # likewise
                    self._note_stop(job, turn, f"{type(failure).__name__}: {failure}")
            finally:
                self._leave(job.name)
            # Waiting in short steps keeps the watchdog fed.
            until = boot_seconds() + pause.total_seconds()
            while boot_seconds() < until and not self._stopping.wait(1.0):
                self._beats[job.name] = boot_seconds()

    def _follow_once(self, job: ContinuousJob, turn: Turn) -> None:
        records.begin_following(self._control, job, now=self._clock(), turn=turn)
        written = 0.0
        unwritten = 0

        def beat(lag: float | None, items: int) -> None:
            nonlocal written, unwritten
            turn.check()
            self._beats[job.name] = boot_seconds()
            unwritten += items
            if boot_seconds() - written >= 2.0:
                records.beat(self._control, job, now=self._clock(), turn=turn, lag=lag, items=unwritten)
                written, unwritten = boot_seconds(), 0
                self._failures.pop(job.name, None)

        job.run(Work(self._db, self._settings, self._clock, turn), beat)

    def _note_stop(self, job: ContinuousJob, turn: Turn, error: str) -> None:
        try:
            records.stop_following(self._control, job, now=self._clock(), turn=turn, error=error)
        except PyMongoError:
            log.warning("the failure could not be recorded", job=job.name)


def _log_failure(job: Job, failure: Exception) -> None:
    """A database that is away is news, not a defect of ours: no traceback."""
    if isinstance(failure, PyMongoError):
        log.warning("job failed", job=job.name, error=f"{type(failure).__name__}: {str(failure)[:300]}")
    else:
        log.error("job failed", job=job.name, exc_info=failure)


def run_until_signalled(worker: Worker) -> None:
    """Run the worker in the main thread; SIGTERM and SIGINT end it cleanly.

    A thread of its own waits for the signals: a handler would run inside the main thread, which may just then
    hold the lock of the very event that the handler has to set.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    def wait() -> None:
        signal.sigwait(ends)
        worker.stop()

    threading.Thread(target=wait, daemon=True).start()
    worker.run()
