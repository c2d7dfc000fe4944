"""The command line: what it refuses, what it passes on, what it prints for scripts."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret  # type: ignore[import-untyped]
from click.testing import CliRunner

from loyalty.ops import ansible, cli, deploy_cli, info, lab_cli, options, replica_cli, site, suite
from loyalty.ops.errors import Refusal
from loyalty.ops.lab import Lab

KEY = "lk_" + "k" * 43


@pytest.fixture
def lab_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site directory with a vault, as `site.yml` leaves it."""
    directory = tmp_path / "sites" / "lab"
    directory.mkdir(parents=True)
    (directory / ".vault_password").write_text("pass word\n")
    vault = VaultLib([("default", VaultSecret(b"pass word"))])
    (directory / "vault.yml").write_bytes(vault.encrypt(f"vault_app_api_key: {KEY}\n"))
    variables: dict[str, Any] = {"site_directory": str(directory), "site_domain": "shop.example"}
    monkeypatch.setattr(info, "site_variables", lambda name: variables)
    return directory


def test_info_json_has_what_a_script_needs(lab_site: Path) -> None:
    answer = CliRunner().invoke(cli.cli, ["info", "--json", "--site", "shop"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.output) == {
        "site": "shop",
        "url": "https://shop.example",
        "console_url": "https://shop.example/console",
        "docs_url": "https://shop.example/docs",
        "ca_file": str(lab_site / "ca/ca.crt"),
        "api_key": KEY,
        "vault_file": str(lab_site / "vault.yml"),
    }


def test_info_shows_the_key_only_when_asked(lab_site: Path) -> None:
    assert KEY not in CliRunner().invoke(cli.cli, ["info", "--site", "shop"]).output
    assert CliRunner().invoke(cli.cli, ["info", "--site", "shop", "--field", "api_key"]).output == KEY + "\n"


def test_a_site_that_does_not_exist_is_refused_with_the_ways_to_make_it() -> None:
    with pytest.raises(Refusal) as refusal:
        ansible.inventories("nowhere")
    assert "lab up --site nowhere" in refusal.value.remedy


def test_extra_variables_keep_their_types() -> None:
    line = ansible.command_line("site", "one-box", extra={"app_workers": 4, "tls_mode": "provided"})
    assert line[-1] == "playbooks/site.yml"
    assert json.loads(line[line.index("--extra-vars") + 1]) == {"app_workers": 4, "tls_mode": "provided"}


def test_everything_after_the_dashes_belongs_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Machine:
        def __init__(self, *_: object) -> None:
            pass

        def ssh_command(self, host: str, command: list[str], *, terminal: bool) -> list[str]:
            seen.append((host, command, terminal))
            return ["true"]

    monkeypatch.setattr(cli, "Lab", Machine)
    monkeypatch.setattr("os.execvp", lambda file, words: None)
    for words in (["--", "ls", "--help"], ["box2", "--", "sh", "-c", "exit 7"], ["box1"]):
        assert CliRunner().invoke(cli.cli, ["ssh", *words]).exit_code == 0
    assert seen[:2] == [("box1", ["ls", "--help"], False), ("box2", ["sh", "-c", "exit 7"], False)]


def test_remote_commands_keep_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "LAB_DIRECTORY", tmp_path)
    state = site.Site("lab", IPv4Network("10.213.7.0/24"), addresses={"box1": "10.213.7.11"})
    state.save()
    machine = Lab("lab", ())
    assert machine.ssh_command("box1", ["echo", "a b", "$HOME"])[-1] == "echo 'a b' '$HOME'"
    assert machine.ssh_command("box1", ["ls | wc -l"])[-1] == "ls | wc -l"
    assert machine.ssh_command("box1")[-1] == "root@10.213.7.11"
    with pytest.raises(Refusal):
        machine.ssh_command("box9", ["true"])


def test_sections_are_run_in_the_order_of_the_table() -> None:
    assert [section.name for section in suite.chosen(["unit", "lint"])] == ["lint", "unit"]
    assert suite.chosen([], everything=True) == list(suite.SECTIONS)
    assert suite.chosen([]) == [section for section in suite.SECTIONS if not section.is_long] != list(suite.SECTIONS)
    assert [section.name for section in suite.chosen(["growth"])] == ["growth"]
    with pytest.raises(Refusal):
        suite.chosen(["nonsense"])


def test_help_teaches() -> None:
    text = CliRunner().invoke(cli.cli, ["--help"]).output
    assert "sudo ./appliance up" in text
    assert "Exit codes: 0 done; 1 a step failed; 2 refused" in text
    for name, command in cli.cli.commands.items():
        assert command.help, name


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the verbs hand to Ansible; nothing is run."""
    seen: list[Any] = []

    def run_playbook(name: str, site_name: str, _: object, **options: Any) -> None:
        seen.append((name, site_name, options))

    variables = {"site_directory": str(tmp_path), "site_name": "the-shop"}
    monkeypatch.setattr(deploy_cli, "run_playbook", run_playbook)
    monkeypatch.setattr(replica_cli, "run_playbook", run_playbook)
    monkeypatch.setattr(deploy_cli, "site_variables", lambda name: variables)
    return seen


@pytest.mark.parametrize(
    ("words", "playbook", "variables"),
    [
        (["deploy"], "deploy", {}),
        (["deploy", "v1.2", "--reason", "why"], "deploy", {"app_version": "v1.2", "app_reason": "why"}),
        (["deploy", "--extra-vars", '{"app_watch_seconds": 0}'], "deploy", {"app_watch_seconds": 0}),
        (["rollback"], "rollback", {}),
        (["rollback", "20260131T120000Z-0123456789ab"], "rollback", {"app_release": "20260131T120000Z-0123456789ab"}),
        (["upgrade", "--reboot"], "upgrade", {"upgrade_reboot_enabled": True}),
        (["unlock", "--force"], "unlock", {"confirm": "the-shop"}),
    ],
)
def test_what_an_operator_says_reaches_the_playbook(
    runs: list[Any], words: list[str], playbook: str, variables: dict[str, Any]
) -> None:
    answer = CliRunner().invoke(cli.cli, [*words, "--site", "shop"])
    assert answer.exit_code == 0, answer.output
    ((name, site_name, options),) = runs
    assert (name, site_name, options["extra"]) == (playbook, "shop", variables)


@pytest.mark.parametrize(
    ("words", "playbook", "variables", "flags"),
    [
        (["add", "db2", "db3", "--check"], "replica_add", {"replica_hosts": ["db2", "db3"]}, replica_cli.PLAN),
        (["add", "db2"], "replica_add", {"replica_hosts": ["db2"]}, ()),
        (["remove", "db2", "--check"], "replica_remove", {"replica_hosts": ["db2"], "confirm": ""}, replica_cli.PLAN),
        (
            ["remove", "db2", "--confirm", "shop"],
            "replica_remove",
            {"replica_hosts": ["db2"], "confirm": "shop"},
            (),
        ),
    ],
)
def test_a_check_of_members_runs_what_plans_and_shows_what_it_says(
    runs: list[Any], words: list[str], playbook: str, variables: dict[str, Any], flags: tuple[str, ...]
) -> None:
    answer = CliRunner().invoke(cli.cli, ["replica", *words, "--site", "shop"])
    assert answer.exit_code == 0, answer.output
    ((name, site_name, given),) = runs
    assert (name, site_name, given["extra"], tuple(given["options"])) == (playbook, "shop", variables, flags)
    assert given["show"] == ("--check" in words) == ("Nothing was changed" in answer.output)


def test_a_lock_is_not_opened_by_the_way(runs: list[Any]) -> None:
    assert CliRunner().invoke(cli.cli, ["unlock", "--site", "shop"]).exit_code == 2
    assert runs == []


def test_json_is_what_the_playbook_has_left(runs: list[Any], tmp_path: Path) -> None:
    (tmp_path / "releases.json").write_text('{"box1": {}}\n')
    assert CliRunner().invoke(cli.cli, ["releases", "--json", "--site", "shop"]).output == '{"box1": {}}\n'


@pytest.mark.parametrize("text", ["app_workers=4", "[1]"])
def test_variables_that_are_no_object_are_refused(text: str) -> None:
    with pytest.raises(Refusal, match="--extra-vars"):
        options.extra_variables(text)


@pytest.mark.parametrize("words", [["up"], ["lab", "up"]])
def test_a_site_keeps_its_topology_unless_told_otherwise(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Machine:
        def __init__(self, *_: object, topology: str | None) -> None:
            asked.append(topology)

        def up(self) -> None:
            raise Refusal("enough seen", "nothing to do")

    monkeypatch.setattr(cli, "Lab", Machine)
    monkeypatch.setattr(lab_cli, "Lab", Machine)
    monkeypatch.setattr(cli, "prepare_machine", lambda step, *, fresh: None)
    for option in ([], ["--topology", "ha"]):
        assert isinstance(CliRunner().invoke(cli.cli, [*words, *option]).exception, Refusal)
    assert asked == [None, "ha"]
