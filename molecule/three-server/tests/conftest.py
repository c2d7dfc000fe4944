"""`site` is the whole site, as its clients and its operator reach it; `ask` asks one member as the administrator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab_site import LabSite

Ask = Callable[[str, str], Any]

PROGRAM = """
import json, pymongo
client = pymongo.MongoClient(
    "localhost", 27017, directConnection=True, tls=True, tlsCAFile="/etc/loyalty/tls/ca.crt",
    username="admin", password={password!r}, serverSelectionTimeoutMS=5000,
)
db = client.loyalty
try:
    print(json.dumps({expression}, default=str))
except pymongo.errors.PyMongoError:
    print("null")
"""


@pytest.fixture(scope="session")
def site() -> LabSite:
    return LabSite(os.environ.get("LOYALTY_TEST_SITE", "molecule-three"))


@pytest.fixture(scope="session")
def ask(site: LabSite) -> Ask:
    """`ask("db1", "client.admin.command('hello')")`: what the mongod of db1 answers; None when it does not."""

    def on(host: str, expression: str) -> Any:
        program = PROGRAM.format(password=site.secret("vault_mongodb_admin_password"), expression=expression)
        # By standard input: a secret has no place among arguments.
        done = site.lab.ssh(host, ["/opt/loyalty/ops-venv/bin/python", "-"], input_text=program, timeout_s=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return on
