"""What a variable means, and the line that set it: the one that Ansible takes the value from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loyalty.ops import inventory as inventory_module
from loyalty.ops.errors import Refusal
from loyalty.ops.explain import explain, lines, places_of
from loyalty.ops.inventory import Inventory
from loyalty.ops.site import topologies

HOSTS = """\
all: {vars: {level: all-in-file}}
loyalty:
  vars: {level: group-in-file, app_workers: 2}
  children:
    app:
      vars: {app_workers: 3}
      hosts:
        box1: {app_workers: 4}
        box2:
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    monkeypatch.setattr(inventory_module, "inventories", lambda site: [str(tmp_path)])
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_each_host_with_the_line_that_wins(site: Path) -> None:
    found = explain("app_workers", "shop").hosts
    assert found["box1"]["value"] == 4
    assert found["box1"]["place"] == f"{site}/hosts.yml:8"
    assert found["box1"]["overrides"] == [f"{site}/hosts.yml:6", f"{site}/hosts.yml:3"]
    assert found["box2"]["value"] == 3
    assert found["box2"]["place"] == f"{site}/hosts.yml:6"


def test_meaning_and_default_come_from_the_roles(site: Path) -> None:
    found = explain("app_workers", "shop")
    assert found.meaning
    assert found.roles == ["app"]
    assert found.default_place.startswith("roles/app/defaults/main.yml:")
    said = "\n".join(lines(found))
    assert f"box1: 4  ({site}/hosts.yml:8)" in said
    assert f"overrides {site}/hosts.yml:6" in said


def test_a_default_that_only_the_specs_tell_is_told(site: Path) -> None:
    found = explain("mongodb_hidden", "shop")
    assert found.meaning
    assert (found.default, found.default_place) == (False, "roles/topology/meta/argument_specs.yml")


@pytest.mark.parametrize(
    "winner",
    ["hosts.yml", "group_vars/all.yml", "group_vars/app/main.yml", "host_vars/box2.yml", "host_vars/box2/z.yml"],
)
def test_the_winning_line_has_the_value_that_ansible_takes(site: Path, winner: str) -> None:
    ladder = ["group_vars/all.yml", "group_vars/app/main.yml", "host_vars/box2.yml", "host_vars/box2/z.yml"]
    for step in ladder[: ladder.index(winner) + 1] if winner in ladder else []:
        if step != "host_vars/box2.yml" or winner == step:  # a file and a folder of one name exclude each other
            write(site / step, f"---\nlevel: {step}\n")
    found = explain("level", "shop").hosts["box2"]
    assert found["place"].startswith(f"{site}/{winner}:")
    assert found["value"] == (winner if winner in ladder else "group-in-file")


@pytest.mark.parametrize("shape", topologies())
def test_in_the_examples_every_value_is_explained_by_its_line(shape: str) -> None:
    inventory = Inventory(shape)
    for host in inventory.groups()["loyalty"]:
        for file in inventory.sources[0].rglob("group_vars/**/*.yml"):
            for name, value in yaml.safe_load(file.read_text()).items():
                places = sorted(places_of(inventory, host, name), key=lambda place: place.rank)
                assert places[-1].path == file
                assert file.read_text().splitlines()[places[-1].line - 1].startswith(f"{name}:")
                assert inventory.raw(host)[name] == value


def test_an_unknown_name_is_refused_with_a_suggestion(site: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        explain("app_wrokers", "shop")
    assert "app_workers" in refusal.value.remedy


@pytest.mark.parametrize("name", ["vault_app_secret_key", "ansible_become_password"])
def test_secrets_are_not_shown(site: Path, name: str) -> None:
    with pytest.raises(Refusal):
        explain(name, "shop")
