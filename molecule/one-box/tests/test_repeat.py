"""What is in place is what the playbooks describe: a dry run finds nothing to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from loyalty.ops.site import CHECKOUT
from tests.one_box import Box


def test_check_and_diff_find_nothing(box: Box) -> None:
    inventories = [option for path in box.inventories for option in ("-i", str(path))]
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", *inventories, "playbooks/site.yml", "--check", "--diff"],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
    assert recap
    assert all(changed == "0" for _, changed in recap), done.stdout[-6000:]
    assert "--- before" not in done.stdout
