"""`site` is the whole site, as its clients and its operator reach it."""

from __future__ import annotations

import os

import pytest

from tests.lab_site import LabSite


@pytest.fixture(scope="session")
def site() -> LabSite:
    return LabSite(os.environ.get("LOYALTY_TEST_SITE", "molecule-runbook"))
