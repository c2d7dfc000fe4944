"""The site grows while clients write: every sale that was acknowledged is there, once, and the ledger is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from loyalty.ops.environment import tool_environment
from loyalty.ops.site import CHECKOUT, Site
from tests.lab_site import LabSite, new_program
from tests.writers import Writers

Hosts = dict[str, dict[str, Any]]
SITE = os.environ.get("LOYALTY_TEST_SITE", "growth")


@pytest.fixture(scope="module")
def site() -> LabSite:
    return LabSite(SITE)


class Operator:
    """Edits one inventory, as an operator does, and runs playbooks on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(CHECKOUT / "inventory" / "one-box", folder)
        self.written = yaml.safe_load((folder / "hosts.yml").read_text())

    def write(self, **groups: Hosts) -> None:
        """Give groups other hosts."""
        self.written["loyalty"]["children"].update({name: {"hosts": hosts} for name, hosts in groups.items()})
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.written))

    def run(self, playbook: str, **extra: Any) -> str:
        line = [".venv/bin/ansible-playbook", "-i", str(self.folder), "-i", str(Site(SITE).inventory)]
        line += ["--extra-vars", json.dumps(extra), f"playbooks/{playbook}.yml"]
        done = subprocess.run(line, cwd=CHECKOUT, env=tool_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-60:])
        return done.stdout


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("growth") / "inventory")


@pytest.fixture
def growing(site: LabSite, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Any:
    """Writers at work around a step; what they were told afterwards holds."""

    @contextmanager
    def around() -> Iterator[None]:
        writers = Writers(site, new_program(site.client(), "growth"))
        with writers.writing():
            yield
        with capsys.disabled():
            counts = f"{len(writers.acknowledged):,} writes acknowledged, {len(writers.failures)} refused"
            print(f"\n{request.node.name}: {counts}, longest gap {writers.longest_gap_seconds:.2f} s")
        # Whoever is refused was told to come again.
        assert [failure for failure in writers.failures if not failure.startswith("503")] == []
        assert writers.applied() == len(writers.acknowledged)
        verified = json.loads(site.run(["loyalty ledger verify --json --no-progress"]))
        assert verified["ok"], verified["defects"][:5]

    return around


def members(site: LabSite) -> dict[str, str]:
    """Members of the set, with their states."""
    program = f"""
import json, pymongo
client = pymongo.MongoClient(
    ["box1", "db1", "db2"], replicaSet="loyalty", tls=True, tlsCAFile="/etc/loyalty/tls/ca.crt",
    username="admin", password={site.secret("vault_mongodb_admin_password")!r},
)
status = client.admin.command("replSetGetStatus")
print(json.dumps({{member["name"].partition(":")[0]: member["stateStr"] for member in status["members"]}}))
"""
    found: dict[str, str] = json.loads(site.run(["/opt/loyalty/current/venv/bin/python", "-"], input_text=program))
    return found


def test_a_second_member_joins(site: LabSite, operator: Operator, growing: Any) -> None:
    operator.write(mongodb={"box1": {}, "db1": {}})
    with growing():
        operator.run("replica_add", replica_hosts=["db1"])
    assert members(site) == {"box1": "PRIMARY", "db1": "SECONDARY"}


def test_a_member_that_the_inventory_lost_stops_every_run(operator: Operator) -> None:
    operator.write(mongodb={"db1": {}}, backup={"db1": {"backup_device": "/dev/disk/by-label/backup"}})
    with pytest.raises(AssertionError, match="is not in the inventory's group mongodb"):
        operator.run("site")


def test_the_first_member_leaves(site: LabSite, operator: Operator, growing: Any) -> None:
    with pytest.raises(AssertionError, match=f"confirm={SITE}"):
        operator.run("replica_remove", replica_hosts=["box1"])
    with growing():
        operator.run("replica_remove", replica_hosts=["box1"], confirm=SITE)
    assert members(site) == {"db1": "PRIMARY"}
    assert site.run(["ls -d /var/lib/mongodb*"]).startswith("/var/lib/mongodb.left-")


def test_two_more_join_and_one_of_them_again(site: LabSite, operator: Operator, growing: Any) -> None:
    operator.write(mongodb={"db1": {}, "db2": {}, "box1": {"mongodb_priority": 0}}, backup={"db2": {}})
    with growing():
        operator.run("replica_add", replica_hosts=["db2", "box1"])
    assert sorted(members(site).values()) == ["PRIMARY", "SECONDARY", "SECONDARY"]
    assert members(site)["box1"] == "SECONDARY"
    totals = operator.run("site").split("PLAY RECAP")[1].splitlines()
    assert [line for line in totals if "changed=" in line and "changed=0 " not in line] == []
