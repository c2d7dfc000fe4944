"""Packages that are older than those of the repositories are upgraded, host by host, while tills go on.

So that there is something to upgrade, today's packages are installed under an older version. Some restart their own
services; a library is used by many that it does not know.
"""

from __future__ import annotations

import sys

import pytest

from tests.lab_site import LabSite, changed
from tests.tills import Tills

PACKAGES = {
    "box1": ("libssl3", "haproxy", "keepalived", "nginx"),
    "box2": ("libssl3", "haproxy", "keepalived", "nginx"),
    "db1": ("libssl3", "redis-server"),
    "db2": ("libssl3", "redis-server"),
    "db3": ("libssl3", "redis-server"),
    "backup1": ("libssl3", "rsync"),
}
OLDER = "~older"  # sorts before the version that it is added to

MAKE_OLDER = f"""
set -e
cd "$(mktemp --directory)"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# What is run must not read this script, which comes by standard input.
for package in $PACKAGES; do
    # With what it depends on.
    apt-get install --quiet=2 --yes --only-upgrade "$package"
    apt-get download --quiet=2 --option APT::Sandbox::User=root "$package"
    dpkg-deb --raw-extract "$package"_*.deb "$package"
    sed -i 's/^Version: .*/&{OLDER}/' "$package/DEBIAN/control"
    dpkg-deb --build "$package" "$package.older.deb"
    dpkg --install --force-confold --force-downgrade "$package.older.deb"
done < /dev/null
rm -r "$PWD"
"""


def versions(site: LabSite, host: str) -> list[str]:
    query = ["dpkg-query", "--show", r"--showformat=${Version}\n", *PACKAGES[host]]
    return site.run_on(host, query).split()


def outdated(site: LabSite, host: str) -> set[str]:
    """The services of the appliance on a host that run replaced code."""
    code = "^[^ ]* ..x.*/(usr|opt)/.* \\(deleted\\)$"
    found = site.run_on(host, [f"grep -lsE '{code}' /proc/[0-9]*/maps | sed 's/maps/cgroup/' | xargs -r cat"])
    names = ("loyalty", "nginx", "haproxy", "keepalived", "redis", "mongod")
    return {unit for line in found.splitlines() if (unit := line.rpartition("/")[2]).startswith(names)}


@pytest.fixture
def older(site: LabSite) -> None:
    for host, packages in PACKAGES.items():
        site.run_on(host, [f"PACKAGES='{' '.join(packages)}' sh -s"], input_text=MAKE_OLDER)
        assert all(version.endswith(OLDER) for version in versions(site, host))
    assert any(outdated(site, host) for host in PACKAGES)
    site.run_playbook("upgrade", options=["--check"])  # which waits until the site is whole


@pytest.mark.usefixtures("older")
def test_packages_are_upgraded_while_tills_go_on(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    with Tills(site, count=2) as tills:  # each sale is sent once more in the end
        site.run_playbook("upgrade")
        tills.go_on(3)
    with capsys.disabled():
        sys.stdout.write(f"\n{tills.report('packages of six hosts upgraded')}\n")
    left = [host for host in PACKAGES if any(version.endswith(OLDER) for version in versions(site, host))]
    assert left == []
    assert set().union(*(outdated(site, host) for host in PACKAGES)) == set()
    assert not tills.failed
    assert tills.most_attempts <= 2
    assert tills.longest_gap_s < 5
    assert not tills.lost()
    assert changed(site.run_playbook("upgrade")) == []
