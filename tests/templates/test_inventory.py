"""An inventory's folder is nothing but the inventory, also where the site keeps its secrets and histories in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from loyalty.ops.environment import tool_environment
from loyalty.ops.site import CHECKOUT

KEPT = {
    "vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
    ".vault_password": "open sesame\n",
    "mongodb.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "ca/ca.crt": "-----BEGIN CERTIFICATE-----\n",
    "ca/issued/box1-site.crt": "-----BEGIN CERTIFICATE-----\n",
    "tls/site.key": "-----BEGIN\n",
    "backup/20261129T035153Z.tar.vault": "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
    "backup/20261129T035153Z.json": '{"format": 1}\n',
    "status.json": '{"intruders": {"hosts": {"box9": {}}}}\n',
    "restores.jsonl": '{"ok": true}\n',
    "releases.json.new": "{",
}
"""What a site keeps in `site_directory`."""


def listed(folder: Path) -> tuple[dict[str, Any], str]:
    """What Ansible makes of an inventory, and what it says about it."""
    done = subprocess.run(
        ["ansible-inventory", "--inventory", str(folder), "--list"],
        cwd=CHECKOUT,
        env=tool_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def test_what_a_site_keeps_in_its_inventory_is_not_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(CHECKOUT / "inventory" / "one-box", folder)
    before, _ = listed(folder)
    for name, text in KEPT.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    after, said = listed(folder)
    assert after == before
    assert said == ""
