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

import httpx
import pytest
import yaml

from loyalty.ops.environment import tool_environment
from loyalty.ops.replica_cli import PLAN
from loyalty.ops.site import CHECKOUT, Site
from tests.lab_site import LabSite, changed, new_program
from tests.writers import Writers

Hosts = dict[str, dict[str, Any]]
SITE = os.environ.get("LOYALTY_TEST_SITE", "growth")


@pytest.fixture(scope="module")
def site() -> LabSite:
    site = LabSite(SITE)
    # Clients know the first server's address; they never have to learn another.
    site.url = f"https://{site.address}"
    return site


class Operator:
    """Edits one inventory, as an operator does, and runs playbooks on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.always: dict[str, Any] = {"site_virtual_address": ""}
        shutil.copytree(CHECKOUT / "inventory" / "one-box", folder)
        self.written = yaml.safe_load((folder / "hosts.yml").read_text())

    def write(self, **groups: Hosts) -> None:
        """Give groups other hosts."""
        self.written["loyalty"]["children"].update({name: {"hosts": hosts} for name, hosts in groups.items()})
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.written))

    def run(self, playbook: str, *options: str, **extra: Any) -> str:
        line = [".venv/bin/ansible-playbook", "-i", str(self.folder), "-i", str(Site(SITE).inventory)]
        line += ["--extra-vars", json.dumps(self.always | extra), *options, f"playbooks/{playbook}.yml"]
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
    def around(*, connections_may_break: bool = False) -> Iterator[None]:
        writers = Writers(site, new_program(site.client(), "growth"))
        with writers.writing():
            yield
        with capsys.disabled():
            counts = f"{len(writers.acknowledged):,} writes acknowledged, {len(writers.failures)} refused"
            print(f"\n{request.node.name}: {counts}, longest gap {writers.longest_gap_seconds:.2f} s")
        # Whoever is refused was told to come again; one that is kept may be closed just when it is used.
        refused = ("503", "ConnectError", "ReadError", "RemoteProtocolError") if connections_may_break else ("503",)
        assert [failure for failure in writers.failures if not failure.startswith(refused)] == []
        assert writers.applied() == len(writers.acknowledged)
        verified = json.loads(site.run(["loyalty ledger verify --json --no-progress"]))
        assert verified["ok"], verified["defects"][:5]

    return around


def members(site: LabSite) -> dict[str, str]:
    """Members of the set, with their states."""
    program = f"""
import json, pymongo
client = pymongo.MongoClient(
    ["box1", "db1", "db2", "db3"], replicaSet="loyalty", tls=True, tlsCAFile="/etc/loyalty/tls/ca.crt",
    username="admin", password={site.secret("vault_mongodb_admin_password")!r},
)
status = client.admin.command("replSetGetStatus")
print(json.dumps({{member["name"].partition(":")[0]: member["stateStr"] for member in status["members"]}}))
"""
    found: dict[str, str] = json.loads(site.run(["/opt/loyalty/current/venv/bin/python", "-"], input_text=program))
    return found


def test_the_plan_of_a_second_member_is_shown_and_changes_nothing(site: LabSite, operator: Operator) -> None:
    operator.write(mongodb={"box1": {}, "db1": {}})
    said = operator.run("replica_add", *PLAN, replica_hosts=["db1"])
    assert "1. add db1:27017 without a vote, and wait until it has caught up" in said
    assert "2. give db1:27017 its vote when it has caught up (votes: 1, then 2)" in said
    assert "3. set the priority of db1:27017 from 0 to 1" in said
    assert members(site) == {"box1": "PRIMARY"}


def test_a_second_member_joins(site: LabSite, operator: Operator, growing: Any) -> None:
    operator.write(mongodb={"box1": {}, "db1": {}})
    with growing(connections_may_break=True):  # nginx is loaded again
        operator.run("replica_add", replica_hosts=["db1"])
    assert members(site) == {"box1": "PRIMARY", "db1": "SECONDARY"}


def test_a_member_that_the_inventory_lost_stops_every_run(operator: Operator) -> None:
    # In the lab only backup1 has a disk for backups.
    operator.write(mongodb={"db1": {}}, backup={"db1": {"backup_same_disk_enabled": True}})
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
    assert changed(operator.run("site")) == []


COPY = """
set -eu
mkdir /mnt/new
mount -t glusterfs -o backup-volfile-servers=db2:db3 db1:/loyalty /mnt/new
rsync -a --exclude=/backups /mnt/storage/ /mnt/new/
umount /mnt/new
mv /mnt/storage /mnt/storage.before
"""
COPY_THE_REST = """
set -eu
rsync -a --ignore-existing --exclude=/backups /mnt/storage.before/ /mnt/storage/
systemctl disable --now redis-server
"""


def test_the_site_becomes_highly_available(site: LabSite, operator: Operator, growing: Any) -> None:
    """As docs/operator/growing.md tells it, from the inventory to the last `apply`, which changes nothing."""
    with site.client() as client:
        file = client.post("/v1/files", content=b"kept", params={"name": "kept"}).raise_for_status().json()
    two: Hosts = {"box1": {}, "box2": {}}
    three: Hosts = {"db1": {}, "db2": {}, "db3": {}}
    backup: Hosts = {"backup1": {}}
    operator.always = {}
    operator.write(
        balancer=two, app=two, nginx=two, scheduler=two, redis=three, storage=three, backup=backup, monitoring=backup
    )
    with growing(), pytest.raises(AssertionError, match="holds files of its own"):
        operator.run("site")
    with growing(connections_may_break=True):
        site.run(["sh", "-s"], input_text=COPY)
        operator.run("site")
        site.run(["sh", "-s"], input_text=COPY_THE_REST)
    with site.client() as client:
        url = httpx.URL(client.get(f"/v1/files/{file['id']}").raise_for_status().json()["download_url"])
        kept = client.get(url.raw_path.decode())  # nobody here knows the site's name
        assert kept.content == b"kept"
    operator.write(mongodb={**three, "box1": {"mongodb_priority": 0}})
    with growing():
        operator.run("replica_add", replica_hosts=["db3"])
    operator.write(mongodb=three)
    with growing():
        operator.run("replica_remove", replica_hosts=["box1"], confirm=SITE)
    assert sorted(members(site)) == ["db1", "db2", "db3"]
    assert sorted(members(site).values()) == ["PRIMARY", "SECONDARY", "SECONDARY"]
    assert changed(operator.run("site")) == []
