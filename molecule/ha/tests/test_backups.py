"""What the example leaves alone: the log is archived all the time, and everything that is kept has a second copy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.lab_site import LabSite, changed
from tests.servers import wait_until
from tests.tills import Tills

KEEPER = "backup1"
FAR = "/srv/second"
ARCHIVES = "find chains log dumps files -name '*.json' | sort"
SETTINGS = {
    "backup_log_continuous_enabled": True,
    "backup_copy_to": FAR,
    # The lab's servers share a disk with all that they keep.
    "backup_copy_same_disk_enabled": True,
}


@pytest.fixture(scope="module", autouse=True)
def set_up(site: LabSite) -> Iterator[None]:
    site.run_on(KEEPER, [f"mkdir -p {FAR}"])
    site.run_playbook("site", extra=SETTINGS, options=["--tags", "backup"])
    yield
    site.run_playbook("site", options=["--tags", "backup"])
    units = site.lab.ssh(KEEPER, ["systemctl is-active loyalty-backup-log.service loyalty-backup-copy.timer"]).stdout
    assert units.split() == ["inactive", "inactive"]
    assert site.run_on(KEEPER, ["systemctl is-active loyalty-backup-log.timer"]).strip() == "active"


def archived_until(site: LabSite) -> float:
    stretches: list[dict[str, Any]] = json.loads(site.run_on(KEEPER, ["loyalty-backup window --json"]))
    return datetime.fromisoformat(stretches[-1]["to"]).timestamp()


def test_a_second_run_changes_nothing(site: LabSite) -> None:
    assert changed(site.run_playbook("site", extra=SETTINGS, options=["--tags", "backup"])) == []


def test_what_was_sold_is_archived_seconds_later(site: LabSite) -> None:
    with Tills(site) as tills:
        tills.go_on(1)
    sold = time.time()
    wait_until(
        lambda: archived_until(site) >= int(sold),
        timeout_s=30,
        failure=lambda: f"archived until {archived_until(site)}",
    )
    assert not tills.failed


def test_the_second_copy_has_all_that_is_kept(site: LabSite) -> None:
    site.run_on(KEEPER, ["systemctl stop loyalty-backup-log.service"])  # so that both sides stand still
    site.run_on(KEEPER, ["loyalty-backup copy --init"])
    site.run_on(KEEPER, ["systemctl start loyalty-backup@copy.service"])
    kept = site.run_on(KEEPER, [f"cd /mnt/backup && {ARCHIVES}"])
    assert site.run_on(KEEPER, [f"cd {FAR} && {ARCHIVES}"]) == kept
    assert "chains/" in kept
    assert "log/" in kept
    site.run_on(KEEPER, ["systemctl start loyalty-backup-log.service"])
