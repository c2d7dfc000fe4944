"""A site's names, addresses and files."""

from __future__ import annotations

import stat
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from loyalty.ops import site as site_module
from loyalty.ops.errors import Refusal
from loyalty.ops.site import Site, sites


@pytest.fixture(autouse=True)
def lab_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / ".lab"
    monkeypatch.setattr(site_module, "LAB_DIRECTORY", directory)
    return directory


def test_state_reads_back() -> None:
    site = Site("shop", IPv4Network("10.213.7.0/24"), base="abc", cgroups={"box1": ["/sys/fs/cgroup/lab-x"]})
    assert site.allot_address("box1") == "10.213.7.11"
    assert site.allot_address("box2") == "10.213.7.12"
    assert site.allot_address("box1") == "10.213.7.11"
    site.save()
    assert Site.load("shop") == site
    assert sites() == ["shop"]


def test_nothing_stored_is_an_empty_site() -> None:
    assert Site.load("shop") == Site("shop")
    assert sites() == []


def test_the_directory_is_closed(lab_directory: Path) -> None:
    Site("shop").save()
    for directory in (lab_directory, lab_directory / "sites", lab_directory / "sites" / "shop"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(Site("shop").state_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "Shop", "1shop", "a b", "../x", "x" * 32, "-x", "x\n"])
def test_names_that_cannot_be_host_names_are_refused(name: str) -> None:
    with pytest.raises(Refusal):
        Site(name)


def test_tags_are_short_and_differ_by_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long, other = Site("a-very-long-name-of-a-site"), Site("a-very-long-name-of-another")
    assert len(long.tag) <= 11
    assert long.tag != other.tag
    here = Site("lab").tag
    monkeypatch.setattr(site_module, "LAB_DIRECTORY", tmp_path / "elsewhere" / ".lab")
    assert Site("lab").tag != here


def test_the_inventory_sets_addresses_and_little_else() -> None:
    site = Site("shop", IPv4Network("10.213.7.0/24"))
    site.allot_address("box1")
    site.save()
    site.write_inventory()
    hosts = yaml.safe_load((site.inventory / "hosts.yml").read_text())["all"]["hosts"]
    assert hosts["box1"]["ansible_host"] == "10.213.7.11"
    assert "StrictHostKeyChecking=yes" in hosts["box1"]["ansible_ssh_common_args"]
    variables = yaml.safe_load((site.inventory / "group_vars/all/lab.yml").read_text())
    assert variables["site_name"] == "shop"
    assert variables["site_directory"] == str(site.directory)
