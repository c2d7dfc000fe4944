"""What every role promises, checked by reading: argument specs, validated templates, names, no swallowed failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import by_path

PROJECT = Path(__file__).parents[2]
ROLES = sorted(path for path in (PROJECT / "roles").iterdir() if (path / "tasks").is_dir())
# Files that Ansible itself reads as tasks or plays.
TASK_FILES = sorted(
    path
    for pattern in ("roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "playbooks/**/*.yml", "molecule/*/*.yml")
    for path in PROJECT.glob(pattern)
    if path.name != "molecule.yml"
)
BLOCKS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
TEMPLATES = ("ansible.builtin.template",)
STRINGS_FOR_BOOLEANS = re.compile(r"^(yes|no|on|off|Yes|No|True|False|TRUE|FALSE)$")


def role_name(role: Path) -> str:
    return role.name


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def described(role: Path) -> dict[str, Any]:
    """The options of all entry points of a role."""
    entries = load(role / "meta" / "argument_specs.yml")["argument_specs"].values()
    return {name: option for entry in entries for name, option in entry.get("options", {}).items()}


def tasks(path: Path) -> Iterator[dict[str, Any]]:
    """Every task, play and block of a file, however deep."""
    for task in load(path) or []:
        yield from nested(task)


def nested(outermost: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A task, play or block, and everything in it."""
    waiting = [outermost]
    while waiting:
        task = waiting.pop(0)
        yield task
        for key in BLOCKS:
            waiting += task.get(key, [])


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_every_default_is_in_the_argument_specs(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml") or {}
    options = described(role)
    assert set(defaults) - set(options) == set()
    for name, option in options.items():
        assert option["description"], name
        assert option["type"], name


def test_every_variable_of_a_host_that_the_topology_goes_by_is_in_the_argument_specs() -> None:
    read = by_path.load("roles/topology/action_plugins/derive_topology.py").HOST_VARIABLES
    assert set(read) - {name for role in ROLES for name in described(role)} == set()


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_a_default_in_the_specs_is_the_default(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml") or {}
    options = described(role)
    written = {name: option["default"] for name, option in options.items() if "default" in option and name in defaults}
    assert written == {name: defaults[name] for name in written}


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_variables_carry_the_name_of_their_role(role: Path) -> None:
    shared = ("site_", "tls_mode", "mongodb_source", "storage_")
    for name in load(role / "defaults" / "main.yml") or {}:
        assert name.startswith((f"{role.name}_", *shared)), name
    for name in load(role / "vars" / "main.yml") or {}:
        assert name.startswith(f"__{role.name}_"), name


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_no_secret_has_a_default(role: Path) -> None:
    secret = re.compile(r"(password|passphrase|secret|keyfile|seal_key|api_key)$")
    for name, value in (load(role / "defaults" / "main.yml") or {}).items():
        if secret.search(name):
            assert value in ("", None) or re.fullmatch(r"\{\{ vault_\w+ \}\}", str(value)), name


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_template_is_validated_before_it_lands(path: Path) -> None:
    for task in tasks(path):
        for module in TEMPLATES:
            if module in task:
                assert "%s" in str(task[module].get("validate", "")) or "validate" in task[module], task["name"]


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_task_has_a_name_of_its_own(path: Path) -> None:
    assert None not in [task.get("name") for task in tasks(path)]
    plays = load(path) if path.parent.name in ("playbooks", "shared") and path.name != "stopped.yml" else [None]
    for play in plays:
        names = [task["name"] for task in tasks(path)] if play is None else [task["name"] for task in nested(play)]
        assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_failure_is_swallowed_wholesale(path: Path) -> None:
    assert not [task.get("name") for task in tasks(path) if task.get("ignore_errors")]
    # Whoever only looks shows a host that is away as a row of its own.
    looks = path.parent == PROJECT / "roles/verify/tasks" or path == PROJECT / "playbooks/shared/onlooker.yml"
    assert looks or not [task.get("name") for task in tasks(path) if task.get("ignore_unreachable")]


@pytest.mark.parametrize(
    "path",
    sorted({*TASK_FILES, *PROJECT.glob("roles/*/*/*.yml"), *PROJECT.glob("inventory/one-box/**/*.yml")}),
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_booleans_are_true_and_false(path: Path) -> None:
    for token in yaml.scan(path.read_text(encoding="utf-8")):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            assert not STRINGS_FOR_BOOLEANS.match(token.value), f"line {token.start_mark.line + 1}: {token.value}"


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_facts_are_read_from_ansible_facts(path: Path) -> None:
    injected = re.compile(
        r"\bansible_(distribution|os_family|hostname|fqdn|processor|memtotal|default_ipv4|architecture|virtualization)\w*"
    )
    assert not injected.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_no_role_depends_on_which_playbook_uses_it(role: Path) -> None:
    """`playbook_dir` is another folder in an imported playbook; `role_path` is always the same."""
    assert not [str(path) for path in role.rglob("*.yml") if "playbook_dir" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_a_host_is_asked_at_a_door_of_its_own(role: Path) -> None:
    """Where there are balancers, https://127.0.0.1 is one of them, and any node that is ready answers for this one."""
    assert not [str(path) for path in role.rglob("*.yml") if "https://127.0.0.1/" in path.read_text(encoding="utf-8")]


def test_what_is_done_to_a_site_is_in_its_history() -> None:
    said = [str(task.get("vars", {}).get("journal_operation")) for path in TASK_FILES for task in tasks(path)]
    written = {word for operation in said for word in re.findall(r"\w+", operation)}
    drills = {"failover_drill", "restore_drill"}
    assert {"upgrade", "restore", "replica_add", "replica_remove", "replica_restart"} | drills <= written
