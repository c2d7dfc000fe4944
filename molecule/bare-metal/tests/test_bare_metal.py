"""The site that was lost with everything comes back by one command, word for word that of docs/operator/recovery.md.

The tests tell one story and follow each other.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from loyalty.ops.lab import Lab
from loyalty.ops.site import CHECKOUT, Site
from tests import runbook
from tests.lab_site import LEDGER, LabSite, new_program
from tests.writers import Writers

LAB = "molecule-metal"
SHOP = "rehearsal"
HOME = CHECKOUT / "inventory" / "sites" / SHOP
CONTENT = b"a logo of the bakery"


@dataclass
class Story:
    """What has happened so far."""

    lab: Lab
    safe: Path
    """Where the operator keeps the vault's password and, after the loss, the drive."""
    writers: Writers = field(init=False)
    download: str = ""
    """The path of a file's content."""
    ledger: list[Any] = field(default_factory=list)

    @property
    def site(self) -> LabSite:
        return LabSite(LAB, installed_as=SHOP)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The inventory is the example's, copied; what an operator would edit in it stands in files beside it."""
    shutil.rmtree(HOME, ignore_errors=True)  # of a run that was killed
    shutil.copytree(CHECKOUT / "inventory" / "one-box", HOME)
    lab = Lab(LAB, ["box1"])
    overlay = yaml.safe_load((Site(LAB).inventory / "hosts.yml").read_text())
    (HOME / "lab.yml").write_text(
        yaml.safe_dump({**overlay, "backup": {"hosts": {"box1": {"backup_same_disk_enabled": True}}}})
    )
    decided = {
        "site_name": SHOP,
        "site_domain": f"{SHOP}.test",
        "site_directory": "{{ inventory_dir }}",
        "mongodb_source": "pypi",
        "site_currency": "USD",
    }
    (HOME / "group_vars" / "all" / "own.yml").write_text(yaml.safe_dump(decided))
    try:
        yield Story(lab, tmp_path_factory.mktemp("safe"))
    finally:
        shutil.rmtree(HOME)


def appliance(*words: str) -> str:
    return runbook.at_control([sys.executable, "-m", "loyalty.ops", *words])


def test_an_operator_installs_the_site_and_it_is_used(story: Story) -> None:
    appliance("apply", "--site", SHOP)
    key = new_program(story.site.client(), "bare-metal")
    story.writers = Writers(story.site, key)
    with story.site.client(key) as client:
        made = client.post("/v1/files", content=CONTENT, headers={"Content-Type": "text/plain"}).raise_for_status()
    story.download = "/" + made.json()["download_url"].split("/", 3)[3]
    with story.writers.writing():
        appliance("backup", "--full", "--files", "--site", SHOP)
        for _ in range(20):
            story.writers.wait_for_more()
    appliance("backup", "--log", "--site", SHOP)
    story.ledger = story.site.ask("box1", LEDGER)
    assert len(story.ledger) >= len(story.writers.acknowledged) > 0
    shutil.copy(HOME / ".vault_password", story.safe / "password")


def test_everything_is_lost_but_the_drive(story: Story) -> None:
    """Server and control machine. The drive is what lies at /mnt/backup on the server, with its owners and modes."""
    drive = story.safe / "drive.tar"
    with drive.open("wb") as stream:
        command = story.lab.ssh_command("box1", ["tar", "-C", "/mnt/backup", "-cf", "-", "."])
        subprocess.run(command, stdout=stream, stdin=subprocess.DEVNULL, check=True)
    story.lab.wipe("box1")
    shutil.rmtree(HOME)
    with drive.open("rb") as stream:
        command = story.lab.ssh_command("box1", ["mkdir -p /mnt/backup && tar -C /mnt/backup --numeric-owner -xpf -"])
        subprocess.run(command, stdin=stream, check=True)
    (story.safe / "drive").mkdir()
    subprocess.run(["tar", "-C", story.safe / "drive", "-xf", drive, "./site"], check=True)
    assert not HOME.exists()


def test_one_command_brings_it_back(story: Story) -> None:
    (step,) = runbook.steps("bare-metal", site=SHOP)
    line = shlex.split(step.command.replace("/mnt/backup", str(story.safe / "drive")))
    told = appliance(*line[1:], "--vault-password-file", str(story.safe / "password"))
    assert SHOP in told
    assert story.site.ask("box1", LEDGER) == story.ledger
    assert story.writers.applied() == len(story.writers.acknowledged)
    with story.site.client(story.writers.key) as client:
        answer = client.get(story.download)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_it_is_the_same_site_and_backups_go_on(story: Story) -> None:
    appliance("status", "--site", SHOP)
    appliance("backup", "--log", "--site", SHOP)
    window = story.site.run_on("box1", ["loyalty-backup window --json"])
    assert len(json.loads(window)) == 2, "what there was before the loss, and what there is since"
    again = Writers(story.site, story.writers.key)
    with again.writing():
        again.wait_for_more()
    assert again.failures == []
