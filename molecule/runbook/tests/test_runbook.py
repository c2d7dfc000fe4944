"""The operator's runbook, word for word: each loss is made, and what docs/operator/recovery.md says is typed.

The tests tell one story and follow each other. What is lost in one of them is there again for the next.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import pytest

from loyalty.infra.ids import entry_id, member_id
from loyalty.ledger.entry import member_of
from loyalty.ops.errors import Failure
from tests import runbook
from tests.lab_site import LEDGER, LabSite, new_program
from tests.servers import wait_until
from tests.writers import Writers

MEMBERS = ("db1", "db2", "box1")
KEEPER = "db2"
APP = "box1"
SCRATCH_PORT = 27117
CONTENT = b"a logo of the bakery"
VERIFY = "loyalty ledger verify --no-progress"
LOSE_FILES = "find /mnt/storage/files -mindepth 1 -delete"


@dataclass
class Story:
    """What has happened so far."""

    site: LabSite
    key: str
    early: Writers = field(init=False)
    late: Writers = field(init=False)
    good: str = ""
    """A second in which all was well, as it is typed."""
    ledger_then: list[Any] = field(default_factory=list)
    download: str = ""
    """The path of a file's content."""

    def __post_init__(self) -> None:
        self.early, self.late = Writers(self.site, self.key), Writers(self.site, self.key)

    def follow(self, procedure: str, *, where: str = "control", ends_with_problems: Collection[str] = ()) -> str:
        """Type a procedure of the runbook with the good second in it."""
        host = {"control": None, "keeper": KEEPER, "app": APP}[where]
        return runbook.follow(
            self.site, procedure, instant=self.good, where=where, host=host, ends_with_problems=ends_with_problems
        )

    def on_primary(self, expression: str) -> Any:
        """What the administrator gets from the primary."""
        for host in MEMBERS:
            hello = self.site.ask(host, "client.admin.command('hello')") or {}
            if hello.get("isWritablePrimary"):
                return self.site.ask(host, expression)
        raise AssertionError("there is no primary")

    def windows(self) -> int:
        """Into how many stretches falls what can be restored."""
        return len(json.loads(self.site.run_on(KEEPER, ["loyalty-backup window --json"])))

    def content(self) -> tuple[int, bytes]:
        """What somebody gets who opens the link to the file."""
        with self.site.client() as client:
            answer = client.get(self.download)
        return answer.status_code, answer.content

    def is_as_it_was(self) -> None:
        """Ledger, rewards and the file are those of the good second."""
        assert self.on_primary(LEDGER) == self.ledger_then
        assert self.on_primary("db.rewards.count_documents({})") == 1
        assert self.content() == (200, CONTENT)

    def now_is_good(self) -> None:
        """Nobody writes around this second, and something is written after it, so that it is archived to its end."""
        second = int(time.time()) + 1
        wait_until(lambda: time.time() >= second + 1, timeout_s=10, failure=lambda: str(second))
        self.good = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.ledger_then = self.on_primary(LEDGER)
        with self.site.client(self.key) as client:
            client.post("/v1/events", json=self.early.sale(f"after-{second}")).raise_for_status()


@pytest.fixture(scope="module")
def story(site: LabSite) -> Story:
    return Story(site, new_program(site.client(), "runbook"))


def test_all_is_well_and_backed_up(story: Story) -> None:
    with story.site.client(story.key) as client:
        client.post("/v1/rewards", json={"name": "Coffee", "cost": 5}).raise_for_status()
        made = client.post("/v1/files", content=CONTENT, headers={"Content-Type": "text/plain"}).raise_for_status()
        story.download = "/" + made.json()["download_url"].split("/", 3)[3]
    with story.early.writing():
        runbook.appliance(story.site, "backup", "--full", "--log", "--files")
        for _ in range(20):
            story.early.wait_for_more()
    story.now_is_good()
    assert len(story.ledger_then) >= len(story.early.acknowledged) > 0
    with story.late.writing():
        for _ in range(20):
            story.late.wait_for_more()
    runbook.appliance(story.site, "backup", "--log", "--files")
    story.follow("first")
    story.follow("first", where="keeper")
    assert story.content() == (200, CONTENT)


def test_a_dropped_collection_is_looked_at_and_brought_back_alone(story: Story) -> None:
    story.on_primary("db.rewards.drop()")
    assert story.on_primary("db.rewards.count_documents({})") == 0
    story.follow("look-beside")
    assert story.site.ask(KEEPER, "db.rewards.count_documents({})", port=SCRATCH_PORT, tls=False) == 1
    assert story.site.ask(KEEPER, LEDGER, port=SCRATCH_PORT, tls=False) == story.ledger_then
    story.follow("end-look")
    assert "1 documents in" in story.follow("dropped-collection", where="keeper")


def test_or_everything_goes_back_and_that_can_be_undone(story: Story) -> None:
    """The database lives: the last writes are archived first, and the restore names the instant to return to."""
    story.follow("dropped-collection")
    story.is_as_it_was()
    (*_, last) = (story.site.directory / "restores.jsonl").read_text().splitlines()
    undo = json.loads(last)["undo"]
    assert undo["ok"], undo
    runbook.appliance(story.site, "restore", "--to", undo["at"], "--confirm", story.site.lab.site)
    assert story.late.applied() == len(story.late.acknowledged) > 0
    assert story.early.applied() == len(story.early.acknowledged)
    assert story.on_primary("db.rewards.count_documents({})") == 0, "as it was before the restore that was undone"
    with story.site.client(story.key) as client:
        client.post("/v1/rewards", json={"name": "Coffee", "cost": 5}).raise_for_status()


def test_a_wrong_import_is_taken_back_event_by_event(story: Story) -> None:
    names = [f"imported-{secrets.token_hex(4)}" for _ in range(3)]
    with story.site.client(story.key) as client:
        for name in names:
            wrong = {"source": "import", "id": name, "type": "purchase", "member": {"external_id": name}}
            client.post("/v1/events", json={**wrong, "amount": "50.00", "currency": "USD"}).raise_for_status()
        runbook.appliance(story.site, "backup", "--log")
        story.follow("wrong-import")
        for name in names:
            refund = {"source": "import", "id": f"undo-{name}", "type": "refund", "member": {"external_id": name}}
            client.post("/v1/events", json={**refund, "refers_to": name}).raise_for_status()
        for name in names:
            wallets = client.get(f"/v1/members/ext:{name}/balance").raise_for_status().json()["wallets"]
            assert {wallet["available"] for wallet in wallets.values()} <= {0}
    story.site.run_on(APP, [VERIFY])


def test_a_corrupted_entry_is_named_and_its_member_is_brought_out(story: Story) -> None:
    """Of the first member, whom the runbook names. Afterwards it is changed back, as nobody but this test can."""
    story.now_is_good()
    runbook.appliance(story.site, "backup", "--log")
    first = "db.ledger.find({}, {'kind': 1, 'program': 1}, sort=[('_id', 1)], limit=1)"
    number, kind, program = story.on_primary(f"[(e['_id'], e['kind'], e['program']) for e in {first}][0]")
    change = "db.ledger.update_one({{'_id': {}}}, {{'$set': {{'kind': {!r}}}}}).modified_count"
    assert story.on_primary(change.format(number, "gift")) == 1
    with pytest.raises(Failure, match=entry_id(number)):
        story.site.run_on(APP, [VERIFY])
    assert re.search(r"[1-9]\d* documents in", story.follow("corrupted-member", where="keeper"))
    frozen = "db.members.count_documents({'frozen': {'$exists': True}})"
    wait_until(lambda: story.on_primary(frozen) == 1, timeout_s=180, failure=lambda: "the monitor did not notice")
    assert story.on_primary(change.format(number, kind)) == 1
    story.site.run_on(APP, [VERIFY])
    member = member_id(member_of(number))
    story.site.run_on(APP, [f"loyalty member unfreeze {program} {member} --reason 'it is as it was in the backup'"])
    assert story.on_primary(frozen) == 0


def test_the_only_application_server_is_lost_and_made_anew(story: Story) -> None:
    """With it the balancer, Redis, a member of the replica set, and all files."""
    before, windows = story.on_primary(LEDGER), story.windows()
    story.site.lab.wipe(APP)
    story.follow("lost-server")
    runbook.appliance(story.site, "backup", "--log")
    assert story.windows() == windows, "what happened meanwhile can be restored as well"
    assert {tuple(entry) for entry in before} <= {tuple(entry) for entry in story.on_primary(LEDGER)}
    assert story.content()[0] != 200
    story.follow("lost-files")
    assert story.content() == (200, CONTENT)


def test_ransomware_is_noticed_and_what_it_left_is_not_restored(story: Story) -> None:
    story.now_is_good()
    runbook.appliance(story.site, "backup", "--log", "--files")
    story.site.run_on(APP, ["find /mnt/storage/files -type f -exec sh -c 'head -c 100 /dev/urandom > \"$1\"' _ {} \\;"])
    with pytest.raises(Failure, match="not what their names say"):
        story.site.run_on(KEEPER, ["loyalty-backup files"])
    told = story.follow("ransomware", where="keeper", ends_with_problems=["loyalty-backup verify --all"])
    assert "Not everything that is kept is whole" in told
    snapshot = told.strip().splitlines()[-1]
    assert story.site.run_on(KEEPER, [f"cat {snapshot}/files/*/*/*"]).encode() == CONTENT
    story.site.run_on(APP, [LOSE_FILES])  # a server that was made anew has none
    story.follow("ransomware", ends_with_problems=[step.command for step in runbook.steps("ransomware")])
    story.is_as_it_was()
    story.site.run_on(KEEPER, ["loyalty-backup prune --damaged && loyalty-backup files && loyalty-backup verify"])


def test_a_lost_password_leaves_what_the_servers_know(story: Story) -> None:
    told = story.follow("lost-password", where="keeper")
    assert story.site.secret("vault_backup_passphrase") in told
    assert story.site.secret("vault_backup_identity") in told
    assert story.site.secret("vault_app_seal_key") in story.follow("lost-password", where="app")
    (first, _) = (step.command for step in runbook.steps("lost-password") if step.where == "control")
    story.follow("lost-password", ends_with_problems=[first])
    assert story.on_primary("db.rewards.count_documents({})") == 1
    assert story.content() == (200, CONTENT)


def test_a_new_drive_begins_anew_and_afterwards_all_is_well(story: Story) -> None:
    story.site.run_on(KEEPER, ["find /mnt/backup -mindepth 1 -delete"])
    story.follow("new-drive")
    story.follow("afterwards")
    again = Writers(story.site, story.key)
    with again.writing():
        again.wait_for_more()
    assert again.failures == []
