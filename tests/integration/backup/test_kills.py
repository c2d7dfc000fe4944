"""A few rounds of `python -m tests.backup_kills`, which by hand makes a thousand."""

from __future__ import annotations

import random

from tests.backup_kills import torture
from tests.integration.backup.conftest import Site
from tests.servers import Mongod


def test_a_killed_run_leaves_no_manifest_that_claims_too_much(site: Site, lone_member: Mongod) -> None:
    tally = torture(site, lone_member, times=6, chance=random.Random(1128))
    assert sum(tally.killed.values()) > 1
    assert tally.archives >= 2
