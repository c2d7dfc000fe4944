"""`site` is the whole site, as its clients and its operator reach it; `ask` asks one member as the administrator."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab_site import LabSite

Ask = Callable[[str, str], Any]


@pytest.fixture(scope="session")
def site() -> LabSite:
    return LabSite(os.environ.get("LOYALTY_TEST_SITE", "molecule-three"))


@pytest.fixture(scope="session")
def ask(site: LabSite) -> Ask:
    """`ask("db1", "client.admin.command('hello')")`: what the mongod of db1 answers; None when it does not."""
    return site.ask
