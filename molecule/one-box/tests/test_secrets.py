"""Secrets are where they belong, and nowhere else."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from tests.one_box import Box


def hidden(box: Box) -> list[str]:
    """What to look for: every secret, or a long enough piece of a long one."""
    return [value.replace("\n", "")[:40] for value in box.secrets.values()]


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/etc/loyalty/credentials", "root", 0o700),
        ("/etc/loyalty/credentials/mongo_uri", "root", 0o400),
        ("/etc/loyalty/credentials/mongo_uri_migrator", "root", 0o400),
        ("/etc/loyalty/credentials/redis_url", "root", 0o400),
        ("/etc/loyalty/credentials/secret_key", "root", 0o400),
        ("/etc/loyalty/credentials/seal_key", "root", 0o400),
        ("/etc/loyalty/tls/site.key", "root", 0o600),
        ("/opt/loyalty/active.json", "root", 0o600),
        ("/opt/loyalty/current/app", "root", 0o755),
        ("/mnt/storage/files", "loyalty", 0o750),
    ],
)
def test_modes_and_owners(host: Host, path: str, owner: str, mode: int) -> None:
    found = host.file(path)
    assert (found.user, found.mode) == (owner, mode)


def test_the_application_cannot_change_its_own_code(host: Host) -> None:
    assert host.run("setpriv --reuid=loyalty --clear-groups touch /opt/loyalty/current/app/loyalty/app.py").rc != 0
    assert host.check_output("find /opt/loyalty/releases -not -user root -print -quit") == ""


def test_no_secret_in_a_process_list_or_environment(host: Host, box: Box) -> None:
    said = host.check_output("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")
    assert not [value for value in hidden(box) if value in said]


def test_no_secret_in_logs(host: Host, box: Box) -> None:
    said = host.check_output(
        "journalctl --no-pager --output=cat;"
        " cat /var/log/nginx/*.log /var/log/loyalty/* /var/log/mongodb/* 2>/dev/null; true"
    )
    assert not [value for value in hidden(box) if value in said]
    assert not re.search(r"lk_[A-Za-z0-9_-]{43}", said)


def test_no_secret_in_files_that_others_read(host: Host, box: Box) -> None:
    places = "/etc /opt/loyalty /var/lib/loyalty /run/systemd /usr/local /var/log /tmp /var/tmp /root/.ansible"
    for value in hidden(box):
        # The pattern comes from standard input, so that this very search is no argument that others see.
        found = host.run(
            f"find {places} -type f -perm /o=r -print0 2>/dev/null | xargs -0 grep -lF -e \"$(cat)\" <<'E'\n{value}\nE"
        )
        assert found.stdout == "", "a secret is readable by others"


def test_no_secret_in_units(host: Host, box: Box) -> None:
    said = host.check_output(
        "systemctl show loyalty@blue loyalty@green loyalty-jobs mongod redis-server nginx"
        " --property=Environment,ExecStart"
    )
    assert not [value for value in hidden(box) if value in said]
