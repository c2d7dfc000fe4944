"""The units run, boxed in, and come back by themselves."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

UNITS = ("mongod", "redis-server", "loyalty-jobs", "nginx")
MOST_EXPOSURE = 2.5


def active_release(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file("/opt/loyalty/active.json").content_string)
    return found


def test_no_unit_failed(host: Host) -> None:
    assert host.check_output("systemctl --failed --plain --no-legend") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_runs_now_and_after_a_boot(host: Host, unit: str) -> None:
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled


def test_one_colour_runs(host: Host) -> None:
    colour = active_release(host)["colour"]
    other = {"blue": "green", "green": "blue"}[colour]
    assert host.service(f"loyalty@{colour}").is_running
    assert host.service(f"loyalty@{colour}").is_enabled
    assert not host.service(f"loyalty@{other}").is_running
    assert not host.service(f"loyalty@{other}").is_enabled


@pytest.mark.parametrize("unit", ["loyalty@blue", "loyalty@green", *UNITS])
def test_the_unit_is_boxed_in(host: Host, unit: str) -> None:
    said = host.check_output(f"systemd-analyze security --no-pager {unit}.service")
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert match is not None
    assert float(match.group(1)) <= MOST_EXPOSURE


@pytest.mark.parametrize("unit", ["mongod", "redis-server", "loyalty-jobs", "loyalty@blue"])
def test_a_crash_is_repaired_for_ever(host: Host, unit: str) -> None:
    shown = host.check_output(f"systemctl show {unit} --property=Restart,StartLimitIntervalUSec")
    assert "Restart=always" in shown or "Restart=on-failure" in shown
    assert "StartLimitIntervalUSec=0" in shown


@pytest.mark.parametrize(
    ("process", "user"),
    [("gunicorn", "loyalty"), ("loyalty jobs run", "loyalty"), ("mongod", "mongodb"), ("redis-server", "redis")],
)
def test_nothing_runs_as_root_that_need_not(host: Host, process: str, user: str) -> None:
    owners = host.check_output(
        f"ps -eo user:32=,args= | grep -F -- '{process}' | grep -v grep | awk '{{print $1}}' | sort -u"
    )
    assert owners == user


def test_the_release_names_itself(host: Host) -> None:
    release = active_release(host)["release"]
    described = json.loads(host.file("/opt/loyalty/current/RELEASE.json").content_string)
    assert described["release"] == release
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{12}", release)
    assert host.file("/opt/loyalty/current").linked_to == f"/opt/loyalty/releases/{release}"
    last = host.file("/var/log/loyalty/journal.jsonl").content_string.splitlines()[-1]
    assert json.loads(last)["release"] == release


def test_the_command_line_tool_answers(host: Host) -> None:
    status = json.loads(host.check_output("loyalty status --json"))
    assert status["ok"], status["problems"]
    assert status["mongodb"]["primary"] == "box1:27017"


def test_the_tool_explains_itself_to_an_ordinary_user(host: Host) -> None:
    refused = host.run("setpriv --reuid=www-data --clear-groups /usr/local/sbin/loyalty status")
    assert refused.rc == 1
    assert "sudo loyalty status" in refused.stderr


def test_time_is_kept(host: Host) -> None:
    assert host.service("chrony").is_running
    assert host.check_output("date +%Z") == "UTC"


def test_metrics_are_there_for_the_operator(host: Host) -> None:
    colour = active_release(host)["colour"]
    program = """
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""
    said = host.check_output("python3 -c %s %s", program, f"/run/loyalty-{colour}/gunicorn.sock")
    assert "loyalty_http_requests_total" in said
