"""What the operator is told while things break: what is wrong, where, what to type, and the exit code."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
from testinfra.host import Host

from loyalty.ops.site import CHECKOUT
from tests.one_box import Box

RECOVERY_SECONDS = 300


def appliance(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHECKOUT / "appliance"), *words, "--site", box.site]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def look(box: Box, verb: str = "status") -> tuple[int, dict[str, Any]]:
    """The exit code of `status` (or `doctor`), and what it saw."""
    done = appliance(box, verb, "--json")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def problems(box: Box, check: str) -> list[dict[str, str]]:
    code, seen = look(box)
    assert code == 1
    assert not seen["ok"]
    return [problem for problem in seen["problems"] if problem["check"] == check]


def wait_until_well(box: Box) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (told := look(box))[0] != 0:
        assert time.monotonic() < deadline, told[1]["screen"]


@pytest.mark.parametrize("verb", ["status", "doctor"])
def test_all_is_well(box: Box, verb: str) -> None:
    code, seen = look(box, verb)
    assert code == 0, seen["screen"]
    assert (seen["ok"], seen["problems"]) == (True, [])
    assert seen["mongodb"]["primary"].endswith(":27017")
    assert seen["lease"]["holder"].startswith("box1:")
    assert "All is well." in seen["screen"].splitlines()


def test_a_stopped_service(host: Host, box: Box) -> None:
    host.check_output("systemctl stop nginx")
    try:
        (problem,) = problems(box, "unit")
        assert problem["host"] == "box1"
        assert "nginx.service is inactive" in problem["found"]
        assert "journalctl --unit nginx.service" in problem["remedy"]
    finally:
        host.check_output("systemctl start nginx")
    wait_until_well(box)


def test_a_full_disk(host: Host, box: Box) -> None:
    host.check_output("mount -t tmpfs -o size=8m tmpfs /mnt/storage")
    try:
        host.check_output("head -c 7800000 /dev/zero > /mnt/storage/full")
        (problem,) = problems(box, "disk")
        assert problem["found"] == "/mnt/storage has 7 % left"
        assert "du -xh" in problem["remedy"]
    finally:
        host.check_output("umount /mnt/storage")
    wait_until_well(box)


def test_settings_that_are_newer_than_their_service(host: Host, box: Box) -> None:
    host.check_output("touch /etc/mongodb/mongod.conf")
    try:
        code, seen = look(box, "doctor")
        assert code == 1
        assert [p["found"] for p in seen["problems"] if p["check"] == "stale"] == [
            "mongod.service started before /etc/mongodb/mongod.conf changed"
        ]
    finally:
        host.check_output("systemctl restart mongod")
    wait_until_well(box)


def test_a_secret_that_others_may_read(host: Host, box: Box) -> None:
    host.check_output("chmod 0644 /etc/loyalty/credentials/secret_key")
    try:
        _, seen = look(box, "doctor")
        assert [p["found"] for p in seen["problems"] if p["check"] == "secrets"] == [
            "/etc/loyalty/credentials/secret_key has mode 0644 and belongs to root"
        ]
    finally:
        host.check_output("chmod 0400 /etc/loyalty/credentials/secret_key")


def test_a_power_cut(box: Box) -> None:
    assert appliance(box, "lab", "kill", "--host", "box1").returncode == 0
    try:
        (problem,) = problems(box, "reachable")
        assert problem["host"] == "box1"
        assert "ping" in problem["remedy"]
    finally:
        assert appliance(box, "lab", "boot", "--host", "box1").returncode == 0
    wait_until_well(box)
