"""What runs when: the one table of all background work."""

from __future__ import annotations

from datetime import timedelta

from loyalty.jobs.backtesting import run_backtests
from loyalty.jobs.housekeeping import sweep_files
from loyalty.jobs.model import ContinuousJob, Job, PeriodicJob
from loyalty.jobs.monitor import watch
from loyalty.jobs.projection import follow
from loyalty.jobs.sealing import SealEveryMinute, write_daily_files
from loyalty.jobs.settlement import NAME as SETTLEMENT
from loyalty.jobs.settlement import settle_due
from loyalty.jobs.verification import run_verifications

JOBS: tuple[Job, ...] = (
    ContinuousJob("projection", "Keeps the wallets up to date with the ledger.", follow),
    PeriodicJob(SETTLEMENT, "Writes down what time has done to points and tiers.", timedelta(minutes=1), settle_due),
    PeriodicJob("ledger_seal", "Seals the ledger's new entries.", timedelta(minutes=1), SealEveryMinute()),
    PeriodicJob("ledger_monitor", "Checks new entries, and old ones in turn.", timedelta(minutes=1), watch),
    ContinuousJob("ledger_verification", "Verifies the whole ledger when it is asked to.", run_verifications),
    ContinuousJob("backtests", "Tries rules on what happened when it is asked to.", run_backtests),
    PeriodicJob("seal_file", "Writes the day's last seal to the storage.", timedelta(days=1), write_daily_files),
    PeriodicJob("sweep_files", "Removes contents that no file refers to.", timedelta(hours=1), sweep_files),
)
